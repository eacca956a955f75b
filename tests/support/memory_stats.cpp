#include "tests/support/memory_stats.hpp"

#include <array>
#include <string_view>

namespace peakcast::support {
namespace {

using pytorch::MemoryStatistics;

constexpr std::array<std::string_view, 9> kArrays{
    "allocation",      "segment",        "active",       "inactive_split",
    "allocated_bytes", "reserved_bytes", "active_bytes", "inactive_split_bytes",
    "requested_bytes"};
constexpr std::array<std::string_view, 3> kPools{"all", "small_pool", "large_pool"};
constexpr std::array<std::string_view, 4> kParts{"current", "peak", "allocated", "freed"};
constexpr std::array<std::string_view, 2> kSingles{"oversize_allocations", "oversize_segments"};
constexpr std::array<std::string_view, 5> kCounts{
    "num_alloc_retries", "num_ooms", "num_device_alloc", "num_device_free", "num_sync_all_streams"};

std::vector<std::string> make_names() {
  std::vector<std::string> names;
  for (const std::string_view array : kArrays) {
    for (const std::string_view pool : kPools) {
      for (const std::string_view part : kParts) {
        names.push_back(std::string{array} + "." + std::string{pool} + "." + std::string{part});
      }
    }
  }
  for (const std::string_view single : kSingles) {
    for (const std::string_view part : kParts) {
      names.push_back(std::string{single} + "." + std::string{part});
    }
  }
  for (const std::string_view count : kCounts) {
    names.emplace_back(count);
  }
  return names;
}

void append(std::vector<std::int64_t>& values, const Level& level) {
  values.insert(values.end(), {level.current, level.peak, level.allocated, level.freed()});
}

}  // namespace

std::span<const std::string> memory_stat_names() {
  static const std::vector<std::string> names = make_names();
  return names;
}

std::vector<std::int64_t> memory_stats(const pytorch::CachingAllocator& allocator) {
  constexpr std::array<Level MemoryStatistics::*, kArrays.size()> kMembers{
      &MemoryStatistics::allocation,      &MemoryStatistics::segment,
      &MemoryStatistics::active,          &MemoryStatistics::inactive_split,
      &MemoryStatistics::allocated_bytes, &MemoryStatistics::reserved_bytes,
      &MemoryStatistics::active_bytes,    &MemoryStatistics::inactive_split_bytes,
      &MemoryStatistics::requested_bytes};
  const std::array<MemoryStatistics, 3> books = allocator.memory_statistics();
  std::vector<std::int64_t> values;
  values.reserve(memory_stat_names().size());
  for (const auto member : kMembers) {
    for (const std::size_t pool : {std::size_t{2}, std::size_t{0}, std::size_t{1}}) {
      append(values, books.at(pool).*member);
    }
  }
  append(values, allocator.oversize_allocations());
  append(values, allocator.oversize_segments());
  const Statistics& counts = allocator.statistics();
  values.insert(values.end(), {counts.num_alloc_retries, counts.num_ooms, counts.num_device_alloc,
                               counts.num_device_free, counts.num_sync_all_streams});
  return values;
}

std::string first_difference(std::span<const std::int64_t> a, std::span<const std::int64_t> b) {
  const std::span<const std::string> names = memory_stat_names();
  if (a.size() != names.size() || b.size() != names.size()) {
    return "not all figures are there";
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (a[i] != b[i]) {
      return names[i] + ": " + std::to_string(a[i]) + " and " + std::to_string(b[i]);
    }
  }
  return "";
}

}  // namespace peakcast::support
