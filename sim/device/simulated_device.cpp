#include "sim/device/simulated_device.hpp"

#include <algorithm>
#include <iterator>

#include "sim/core/check.hpp"
#include "sim/device/gpu_description.hpp"
#include "sim/device/stream_ordered_pool.hpp"

namespace peakcast {
namespace {

using namespace literals;

constexpr Bytes kPage = 2_MiB;
constexpr std::uint64_t kPageMask = ~((2ULL << 20) - 1);

}  // namespace

SimulatedDevice::SimulatedDevice(SimulatedDeviceOptions options)
    : options_{std::move(options)},
      addresses_{options_.addresses != nullptr ? options_.addresses : &modelled_},
      pool_{std::make_unique<StreamOrderedPool>(*this, options_.streams)},
      used_{options_.outside},
      peak_used_{options_.outside} {
  if (options_.costs == nullptr) {
    options_.costs = &reference_gpu().driver_costs;
  }
}

SimulatedDevice::~SimulatedDevice() = default;

bool SimulatedDevice::take(Bytes size) {
  const Bytes most = options_.spec.total - options_.kept;
  if (size > most || used_ > most - size) {
    return false;
  }
  used_ += size;
  peak_used_ = std::max(peak_used_, used_);
  return true;
}

void SimulatedDevice::give(Bytes size) { used_ -= size; }

std::optional<Address> SimulatedDevice::acquire(Bytes size) {
  check(size.count() > 0, "acquire of nothing");
  ++counts_.acquire;
  host_time_ += cost_at(options_.costs->acquire, size);
  const bool small = size <= options_.shared_page_limit;
  if (small) {
    const std::optional<Address> address = addresses_->acquire(size);
    if (!address) {
      return std::nullopt;
    }
    SmallPage& page = small_pages_[address->value() & kPageMask];
    if (page.users == 0 && !take(kPage)) {
      small_pages_.erase(address->value() & kPageMask);
      addresses_->release(*address, size);
      return std::nullopt;
    }
    ++page.users;
    acquired_.emplace(address->value(), size);
    return address;
  }
  if (size > options_.spec.total) {
    return std::nullopt;
  }
  const Bytes pages = round_up(size, kPage);
  if (!take(pages)) {
    return std::nullopt;
  }
  const std::optional<Address> address = addresses_->acquire(size);
  if (!address) {
    give(pages);
    return std::nullopt;
  }
  acquired_.emplace(address->value(), size);
  return address;
}

void SimulatedDevice::release(Address address) {
  const auto found = acquired_.find(address.value());
  check(found != acquired_.end(), "release of an address that was not acquired");
  const Bytes size = found->second;
  acquired_.erase(found);
  ++counts_.release;
  if (options_.streams != nullptr) {
    options_.streams->synchronize_device();
  }
  host_time_ += cost_at(options_.costs->release, size);
  if (size <= options_.shared_page_limit) {
    const auto page = small_pages_.find(address.value() & kPageMask);
    if (--page->second.users == 0) {
      small_pages_.erase(page);
      give(kPage);
    }
  } else {
    give(round_up(size, kPage));
  }
  addresses_->release(address, size);
}

std::optional<Address> SimulatedDevice::reserve(Bytes size) {
  ++counts_.reserve;
  return addresses_->reserve(size);
}

void SimulatedDevice::unreserve(Address address, Bytes size) {
  ++counts_.unreserve;
  addresses_->unreserve(address, size);
}

std::optional<PhysicalId> SimulatedDevice::create(Bytes size) {
  check(size.count() > 0 && size.count() % options_.spec.granularity.count() == 0,
        "physical memory comes in multiples of the granularity");
  ++counts_.create;
  host_time_ += cost_at(options_.costs->create, size);
  if (!take(size)) {
    return std::nullopt;
  }
  if (!addresses_->create()) {
    give(size);
    return std::nullopt;
  }
  return new_physical(size);
}

PhysicalId SimulatedDevice::new_physical(Bytes size) {
  return PhysicalId{physical_.take({.size = size, .mappings = 0, .destroyed = false})};
}

void SimulatedDevice::destroy(PhysicalId physical) {
  ++counts_.destroy;
  Physical& p = physical_[physical.value];
  check(!p.destroyed, "physical memory destroyed twice");
  host_time_ += cost_at(options_.costs->destroy, p.size);
  p.destroyed = true;
  if (p.mappings == 0) {
    give(p.size);
    physical_.give_back(physical.value);
  }
}

void SimulatedDevice::map(Address address, PhysicalId physical) {
  host_time_ += cost_at(options_.costs->set_access, map_only(address, physical));
}

void SimulatedDevice::map_run(Address address, std::span<const PhysicalId> physical) {
  Bytes size{};
  for (const PhysicalId part : physical) {
    size += map_only(address + size, part);
  }
  host_time_ += cost_at(options_.costs->set_access, size);
  if (physical.size() > 1) {
    host_time_ +=
        options_.costs->set_access_mapping * static_cast<std::int64_t>(physical.size() - 1);
  }
}

Bytes SimulatedDevice::map_only(Address address, PhysicalId physical) {
  Physical& p = physical_[physical.value];
  ++counts_.map;
  host_time_ += cost_at(options_.costs->map, p.size);
  const auto after = mapped_.lower_bound(address.value());
  check(after == mapped_.end() || Address{after->first} >= address + p.size,
        "mapped over a mapping");
  if (after != mapped_.begin()) {
    const auto before = std::prev(after);
    check(Address{before->first} + physical_[before->second].size <= address,
          "mapped over a mapping");
  }
  mapped_.emplace(address.value(), physical.value);
  ++p.mappings;
  addresses_->map(address, p.size);
  return p.size;
}

void SimulatedDevice::unmap(Address address, Bytes size) {
  ++counts_.unmap;
  host_time_ += cost_at(options_.costs->unmap, size);
  const Address end = address + size;
  auto mapping = mapped_.lower_bound(address.value());
  Address at = address;
  while (at < end) {
    check(mapping != mapped_.end() && Address{mapping->first} == at, "unmap of what is not mapped");
    Physical& p = physical_[mapping->second];
    at = at + p.size;
    --p.mappings;
    if (p.mappings == 0 && p.destroyed) {
      give(p.size);
      physical_.give_back(mapping->second);
    }
    mapping = mapped_.erase(mapping);
  }
  check(at == end, "unmap of part of a mapping");
  addresses_->unmap(address, size);
}

bool SimulatedDevice::resume_acquired(Address address, Bytes size) {
  const bool small = size <= 1_MiB;
  if (!take(small ? kPage : round_up(size, kPage))) {
    return false;
  }
  if (small) {
    ++small_pages_[address.value() & kPageMask].users;
  }
  acquired_.emplace(address.value(), size);
  addresses_->keep_clear(address, size);
  return true;
}

bool SimulatedDevice::resume_reserved(Address address, Bytes size) {
  addresses_->keep_clear_reservation(address, size);
  return true;
}

std::optional<PhysicalId> SimulatedDevice::resume_mapped(Address address, Bytes size) {
  if (!take(size)) {
    return std::nullopt;
  }
  const PhysicalId physical = new_physical(size);
  physical_[physical.value].mappings = 1;
  mapped_.emplace(address.value(), physical.value);
  return physical;
}

std::optional<Address> SimulatedDevice::pool_allocate(Bytes size, StreamId stream) {
  ++counts_.pool_allocate;
  const Bytes before = pool_->reserved();
  const std::optional<Address> address = pool_->allocate(size, stream);
  const Bytes grown = pool_->reserved() - before;
  host_time_ +=
      grown.count() > 0 ? cost_at(options_.costs->pool_grow, grown) : options_.costs->pool_hit;
  return address;
}

void SimulatedDevice::pool_free(Address address, StreamId stream) {
  ++counts_.pool_free;
  host_time_ += options_.costs->pool_free;
  pool_->free(address, stream);
}

void SimulatedDevice::synchronized() { pool_->poll(); }

void SimulatedDevice::pool_trim(Bytes keep) { pool_->trim(keep); }

Bytes SimulatedDevice::pool_reserved() const { return pool_->reserved(); }

}  // namespace peakcast
