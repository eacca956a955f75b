#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "allocators/pytorch/caching_allocator.hpp"

namespace peakcast::support {

/// The keys of torch.cuda.memory_stats() that the allocator decides, in one fixed order:
/// "allocation.all.current", ... "num_sync_all_streams".
[[nodiscard]] std::span<const std::string> memory_stat_names();

/// Their values, in that order.
[[nodiscard]] std::vector<std::int64_t> memory_stats(const pytorch::CachingAllocator& allocator);

/// The first key whose value differs, with both values; "" when all agree.
[[nodiscard]] std::string first_difference(std::span<const std::int64_t> a,
                                           std::span<const std::int64_t> b);

}  // namespace peakcast::support
