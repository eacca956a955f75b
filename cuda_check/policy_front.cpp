#include "cuda_check/policy_front.hpp"

#include "sim/core/size_text.hpp"

namespace peakcast {
namespace {

Json level_json(const Level& level, const char* unit) {
  const std::string suffix = unit;
  return {{"current" + suffix, level.current},
          {"peak" + suffix, level.peak},
          {"allocated" + suffix, level.allocated},
          {"freed" + suffix, level.freed()}};
}

}  // namespace

std::variant<Address, OutOfMemory> PolicyFront::allocate(Bytes size, StreamId stream) {
  const std::lock_guard lock{mutex_};
  const AllocOutcome outcome = allocator_->allocate(AllocRequest{size, stream});
  if (const auto* failure = std::get_if<OutOfMemory>(&outcome)) {
    return *failure;
  }
  const auto& placed = std::get<Placement>(outcome);
  const bool fresh = live_.emplace(placed.address.value(), placed.block).second;
  check(fresh, "the address of a live block was handed out");
  return placed.address;
}

bool PolicyFront::deallocate(Address address) {
  const std::lock_guard lock{mutex_};
  const auto found = live_.find(address.value());
  if (found == live_.end()) {
    return false;
  }
  const BlockId block = found->second;
  live_.erase(found);
  allocator_->deallocate(block);
  return true;
}

bool PolicyFront::record_stream(Address address, StreamId stream) {
  const std::lock_guard lock{mutex_};
  const auto found = live_.find(address.value());
  if (found == live_.end()) {
    return false;
  }
  allocator_->record_stream(found->second, stream);
  return true;
}

void PolicyFront::empty_cache() {
  const std::lock_guard lock{mutex_};
  allocator_->empty_cache();
}

Json PolicyFront::statistics() {
  const std::lock_guard lock{mutex_};
  const Statistics& books = allocator_->statistics();
  const DeviceCounts& calls = device_->counts();
  Json json;
  json["policy"] = allocator_->name();
  json["requested"] = level_json(books.requested, "_bytes");
  json["allocated"] = level_json(books.allocated, "_bytes");
  json["active"] = level_json(books.active, "_bytes");
  json["reserved"] = level_json(books.reserved, "_bytes");
  json["inactive_split"] = level_json(books.inactive_split, "_bytes");
  json["segments"] = level_json(books.segments, "");
  json["allocations"] = level_json(books.allocations, "");
  json["num_alloc_retries"] = books.num_alloc_retries;
  json["num_ooms"] = books.num_ooms;
  json["num_device_alloc"] = books.num_device_alloc;
  json["num_device_free"] = books.num_device_free;
  json["num_sync_all_streams"] = books.num_sync_all_streams;
  json["device_calls"] = {{"acquire", calls.acquire},
                          {"release", calls.release},
                          {"reserve", calls.reserve},
                          {"unreserve", calls.unreserve},
                          {"create", calls.create},
                          {"destroy", calls.destroy},
                          {"map", calls.map},
                          {"unmap", calls.unmap},
                          {"pool_allocate", calls.pool_allocate},
                          {"pool_free", calls.pool_free}};
  json["device_time_ns"] = device_->host_time().count();
  return json;
}

std::string out_of_memory_message(const OutOfMemory& out_of_memory, std::string_view policy) {
  return "CUDA out of memory. Tried to allocate " + size_text(out_of_memory.requested) +
         " (policy " + std::string{policy} + ", rounded to " + size_text(out_of_memory.rounded) +
         "). The device has " + size_text(out_of_memory.device_free) + " free; " +
         size_text(out_of_memory.allocated) + " is allocated, " +
         size_text(out_of_memory.reserved) + " is reserved, the largest free block holds " +
         size_text(out_of_memory.largest_free_block) + ".";
}

}  // namespace peakcast
