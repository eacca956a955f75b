#include "cuda_check/policy_front.hpp"

#include <algorithm>

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

/// As PyTorch prints a size.
std::string native_text(Bytes size) {
  return size < Bytes{1024} ? std::to_string(size.count()) + " bytes" : size_text(size);
}

constexpr Level Statistics::*kLevels[] = {&Statistics::requested,      &Statistics::allocated,
                                          &Statistics::active,         &Statistics::reserved,
                                          &Statistics::inactive_split, &Statistics::segments,
                                          &Statistics::allocations};
constexpr std::int64_t Statistics::*kCounts[] = {
    &Statistics::num_alloc_retries, &Statistics::num_ooms, &Statistics::num_device_alloc,
    &Statistics::num_device_free, &Statistics::num_sync_all_streams};

}  // namespace

template <class Act>
auto PolicyFront::counted(Allocator& policy, Act act) {
  const Statistics before = policy.statistics();
  auto result = act();
  const Statistics& after = policy.statistics();
  for (const auto level : kLevels) {
    const Level& was = before.*level;
    const Level& is = after.*level;
    Level& sum = books_.*level;
    if (is.peak > was.peak) {  // within the call, too: the others stood still
      sum.peak = std::max(sum.peak, sum.current + is.peak - was.current);
    }
    sum.current += is.current - was.current;
    sum.allocated += is.allocated - was.allocated;
    sum.peak = std::max(sum.peak, sum.current);
  }
  for (const auto count : kCounts) {
    books_.*count += after.*count - before.*count;
  }
  return result;
}

PolicyFront::Pool* PolicyFront::find(PoolId pool) {
  const auto found = pools_.find(pool);
  return found == pools_.end() ? nullptr : &found->second;
}

std::variant<Address, OutOfMemory> PolicyFront::allocate(Bytes size, StreamId stream, PoolId pool) {
  const std::lock_guard lock{mutex_};
  Pool* const apart = find(pool);
  Allocator& policy = apart != nullptr ? *apart->policy : *allocator_;
  const AllocOutcome outcome = counted(policy, [&] {
    return policy.allocate(AllocRequest{size, stream});
  });
  if (const auto* failure = std::get_if<OutOfMemory>(&outcome)) {
    OutOfMemory whole = *failure;
    whole.allocated = Bytes{books_.allocated.current};
    whole.reserved = Bytes{books_.reserved.current};
    return whole;
  }
  const auto& placed = std::get<Placement>(outcome);
  if (apart != nullptr) {
    ++apart->blocks;
  }
  const Block block{
      .id = placed.block, .owner = &policy, .pool = apart != nullptr ? pool : PoolId{}};
  const bool fresh = live_.emplace(placed.address.value(), block).second;
  check(fresh, "the address of a live block was handed out");
  return placed.address;
}

bool PolicyFront::deallocate(Address address) {
  const std::lock_guard lock{mutex_};
  const auto found = live_.find(address.value());
  if (found == live_.end()) {
    return false;
  }
  const Block block = found->second;
  live_.erase(found);
  if (captures_ > 0 && block.used_elsewhere) {
    deferred_.push_back(block);
  } else {
    give_back(block);
  }
  return true;
}

void PolicyFront::give_back(const Block& block) {
  counted(*block.owner, [&] {
    block.owner->deallocate(block.id);
    return true;
  });
  if (Pool* const pool = find(block.pool)) {
    --pool->blocks;
    end_if_unused(block.pool);
  }
}

bool PolicyFront::record_stream(Address address, StreamId stream) {
  const std::lock_guard lock{mutex_};
  const auto found = live_.find(address.value());
  if (found == live_.end()) {
    return false;
  }
  found->second.used_elsewhere = true;
  found->second.owner->record_stream(found->second.id, stream);
  return true;
}

void PolicyFront::empty_cache() {
  const std::lock_guard lock{mutex_};
  counted(*allocator_, [&] {
    allocator_->empty_cache();
    return true;
  });
}

void PolicyFront::retain(PoolId pool) {
  const std::lock_guard lock{mutex_};
  if (!make_pool_ || pool == PoolId{}) {
    return;
  }
  Pool& entry = pools_[pool];
  if (entry.policy == nullptr) {
    entry.policy = make_pool_();
    entry.policy->set_sink(sink_);
  }
  ++entry.users;
}

void PolicyFront::release(PoolId pool) {
  const std::lock_guard lock{mutex_};
  if (Pool* const entry = find(pool)) {
    --entry->users;
    end_if_unused(pool);
  }
}

void PolicyFront::end_if_unused(PoolId pool) {
  Pool& entry = *find(pool);
  if (entry.users > 0) {
    return;
  }
  // Nothing replays what was captured any more: what its blocks do not hold goes back.
  counted(*entry.policy, [&] {
    entry.policy->empty_cache();
    return true;
  });
  if (entry.blocks == 0) {
    pools_.erase(pool);
  }
}

std::int64_t PolicyFront::users(PoolId pool) {
  const std::lock_guard lock{mutex_};
  const Pool* const entry = find(pool);
  return entry != nullptr ? entry->users : 0;
}

void PolicyFront::begin_capture() {
  const std::lock_guard lock{mutex_};
  ++captures_;
}

void PolicyFront::end_capture() {
  const std::lock_guard lock{mutex_};
  if (--captures_ > 0) {
    return;
  }
  for (const Block& block : std::exchange(deferred_, {})) {
    give_back(block);
  }
}

Statistics PolicyFront::books() {
  const std::lock_guard lock{mutex_};
  return books_;
}

void PolicyFront::reset_peaks() {
  const std::lock_guard lock{mutex_};
  for (const auto level : kLevels) {
    (books_.*level).peak = (books_.*level).current;
  }
}

void PolicyFront::reset_totals() {
  const std::lock_guard lock{mutex_};
  for (const auto level : kLevels) {
    (books_.*level).allocated = (books_.*level).current;
  }
  for (const auto count : kCounts) {
    books_.*count = 0;
  }
}

Json PolicyFront::statistics() {
  const std::lock_guard lock{mutex_};
  const Statistics& books = books_;
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

std::vector<std::pair<PolicyFront::PoolId, HeapView>> PolicyFront::heaps() {
  const std::lock_guard lock{mutex_};
  std::vector<std::pair<PoolId, HeapView>> all;
  all.emplace_back(PoolId{}, allocator_->view());
  for (const auto& [id, pool] : pools_) {
    all.emplace_back(id, pool.policy->view());
  }
  return all;
}

void PolicyFront::set_sink(EventSink* sink) {
  const std::lock_guard lock{mutex_};
  sink_ = sink;
  allocator_->set_sink(sink);
  for (const auto& [id, pool] : pools_) {
    pool.policy->set_sink(sink);
  }
}

std::string out_of_memory_message(const OutOfMemory& out_of_memory, int device, Bytes total,
                                  std::optional<Bytes> limit, std::string_view policy) {
  const std::string allowed = limit ? native_text(*limit) + " allowed; " : "";
  return "CUDA out of memory. Tried to allocate " + native_text(out_of_memory.requested) +
         ". GPU " + std::to_string(device) + " has a total capacity of " + native_text(total) +
         " of which " + native_text(out_of_memory.device_free) + " is free. " + allowed +
         "Of the allocated memory " + native_text(out_of_memory.allocated) +
         " is allocated by PyTorch, and " +
         native_text(out_of_memory.reserved - out_of_memory.allocated) +
         " is reserved by PyTorch but unallocated. The allocator is peakcast's policy " +
         std::string{policy} + ".";
}

}  // namespace peakcast
