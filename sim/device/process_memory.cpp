#include "sim/device/process_memory.hpp"

#include <iterator>

#include "sim/core/check.hpp"

namespace peakcast {
namespace {

constexpr Bytes kPage{4096};
/// More than a machine has: a trace cannot fill the address space.
constexpr Bytes kMostMapped{std::int64_t{1} << 44};
constexpr Bytes kLargestThreshold{32 << 20};
/// posix_memalign(64) of n bytes looks for a chunk of n + 64 + 32 (the smallest chunk) + 16 (a
/// header, rounded up); if it is mapped, for a word more. The block's own chunk is what is left
/// from 48 bytes on, where its header begins: 16 bytes before the aligned block.
constexpr Bytes kChunkExtra{112};
constexpr Bytes kMappingExtra{120};
constexpr Bytes kMappingLead{48};

}  // namespace

std::uint64_t add_range(Ranges& ranges, std::uint64_t start, std::uint64_t size) {
  auto after = ranges.lower_bound(start);
  if (after != ranges.end() && after->first == start + size) {
    size += after->second;
    after = ranges.erase(after);
  }
  if (after != ranges.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == start) {
      before->second += size;
      return before->second;
    }
  }
  ranges.emplace_hint(after, start, size);
  return size;
}

AddressSpace::AddressSpace(Address bottom, Address top) {
  check(bottom < top, "an address space has room");
  gaps_.emplace(bottom.value(), top.value() - bottom.value());
}

std::optional<Address> AddressSpace::map(Bytes length) {
  const auto need = static_cast<std::uint64_t>(round_up(length, kPage).count());
  for (auto gap = gaps_.end(); gap != gaps_.begin();) {
    --gap;
    if (gap->second < need) {
      continue;
    }
    gap->second -= need;
    const Address start{gap->first + gap->second};
    if (gap->second == 0) {
      gaps_.erase(gap);
    }
    return start;
  }
  return std::nullopt;
}

std::optional<Address> AddressSpace::map_aligned(Bytes length, Bytes alignment) {
  const Bytes over = alignment - kPage;
  const std::optional<Address> whole = map(length + over);
  if (!whole) {
    return std::nullopt;
  }
  const auto unit = static_cast<std::uint64_t>(alignment.count());
  const Address start{(whole->value() + unit - 1) / unit * unit};
  unmap(*whole, start - *whole);
  unmap(start + length, *whole + over - start);
  return start;
}

void AddressSpace::unmap(Address start, Bytes length) {
  if (length > Bytes{}) {
    add_range(gaps_, start.value(), static_cast<std::uint64_t>(round_up(length, kPage).count()));
  }
}

void HostHeap::allocate(AddressSpace& space, std::uint32_t buffer, Bytes size) {
  if (size + kChunkExtra < threshold_ || size > kMostMapped - mapped_) {
    return;
  }
  const Bytes length = round_up(size + kMappingExtra, kPage);
  if (const std::optional<Address> start = space.map(length)) {
    mappings_[buffer] = Mapping{*start, length};
    mapped_ += length;
  }
}

void HostHeap::free(AddressSpace& space, std::uint32_t buffer) {
  const auto found = mappings_.find(buffer);
  if (found == mappings_.end()) {
    return;
  }
  const Mapping mapping = found->second;
  mappings_.erase(found);
  space.unmap(mapping.start, mapping.length);
  mapped_ -= mapping.length;
  const Bytes chunk = mapping.length - kMappingLead;
  if (chunk > threshold_ && chunk <= kLargestThreshold) {
    threshold_ = chunk;
  }
}

}  // namespace peakcast
