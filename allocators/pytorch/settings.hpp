#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string_view>

#include "sim/core/error.hpp"
#include "sim/core/units.hpp"

namespace peakcast::pytorch {

/// What differs between releases, as switches of one implementation. Placement by default settings
/// is the same in all of them; the differences are in settings, private pools and limits.
/// Source: the releases' sources as re-described in the project's allocator specification, section
/// 22; dates of pull requests against branch dates where no release note names the release.
struct Version {
  std::string_view name{};            ///< "2.11"
  bool non_split_rounding_setting{};  ///< max_non_split_rounding_mb exists (#136174)
  bool graph_reuse_setting{};         ///< graph_capture_record_stream_reuse exists (#158352)
  bool large_segment_setting{};       ///< large_segment_size_mb exists (#172056)
  bool fraction_setting{};            ///< per_process_memory_fraction exists (#161035)
  bool shared_parser{};               ///< c10/core's parser: a wrong separator is not refused by
                                      ///< itself, all white space is dropped, max_split_size_mb
                                      ///< may equal the large segment size
  bool open_interval_from_next{};     ///< `>` fills from the interval after the last one listed
  bool fallback_to_pools{};           ///< MemPool(use_on_oom=True) (#151487)
  bool newest_pool_first{};           ///< nested pool contexts: the innermost one wins
};

/// Oldest first; the last is the default.
[[nodiscard]] std::span<const Version> versions();
/// "" gives the newest; an unknown one is an error that lists the known.
[[nodiscard]] Expected<Version> find_version(std::string_view name);

/// PYTORCH_CUDA_ALLOC_CONF, parsed. Sizes in bytes.
struct Settings {
  static constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
  static constexpr std::uint64_t kLargeSegment = 20ULL << 20;

  std::uint64_t max_split_size{kUnlimited};
  std::uint64_t max_non_split_rounding{kLargeSegment};
  std::uint64_t large_segment_size{kLargeSegment};
  double garbage_collection_threshold{};  ///< 0: off
  /// Per interval: 0 below 2 MiB, i from 2^(20+i) on, 15 from 32 GiB on. 0: off.
  std::array<std::uint64_t, 16> roundup_power2_divisions{};
  bool expandable_segments{};
  bool release_lock_on_cudamalloc{};
  double per_process_memory_fraction{1.0};
  bool cuda_malloc_async{};  ///< backend:cudaMallocAsync: the driver's pool runs, not this policy
};

/// Parses `text` as release `version` does: the same keys, the same tokens, the same checks.
/// One deviation: a negative number is refused, where std::stoull would wrap it round.
/// Errors carry the column in `text`. O(length).
[[nodiscard]] Expected<Settings> parse_settings(std::string_view text, const Version& version);

}  // namespace peakcast::pytorch
