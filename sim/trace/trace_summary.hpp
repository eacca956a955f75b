#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "sim/core/units.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// What a trace holds, counted.
struct TraceSummary {
  std::array<std::int64_t, kOpKindCount> ops{};     ///< by OpKind
  std::array<std::int64_t, kActionCount> events{};  ///< by Action; zeros without a recording
  std::int64_t attempts{};                          ///< allocations that failed when recorded
  std::int64_t preexisting{};                       ///< buffers that lived before recording began
  std::int64_t at_sync{};       ///< completions that only a waiting allocator saw
  std::int64_t iterations{};    ///< iteration marks
  Bytes peak_live{};            ///< largest sum of requested bytes, allocate to free
  std::int64_t peak_op{-1};     ///< the op that reaches it first
  std::int64_t peak_buffers{};  ///< live then
  Bytes end_live{};
  std::int64_t end_buffers{};
  Bytes largest{};  ///< buffer
  Bytes total{};    ///< of all allocations
  /// Every recorded alloc is a multiple of 512: likely an old recording, whose sizes the allocator
  /// had rounded already. False below 100 allocations.
  bool sizes_look_rounded{};
  /// The recording's final snapshot; nullopt when there is none.
  struct FinalHeap {
    Bytes allocated{};
    Bytes active{};  ///< allocated, or held by a stream
    Bytes reserved{};
    Bytes inactive{};        ///< free
    Bytes inactive_split{};  ///< of it, in segments in use: empty_cache() does not give it back
    Bytes largest_free{};    ///< block
  };
  std::optional<FinalHeap> final_heap{};
  std::int64_t duration_us{};  ///< first to last op; 0 without times
};

/// O(ops + events).
[[nodiscard]] TraceSummary summary_of(const Trace& trace);

/// Bytes of memory that the trace takes, capacities included.
[[nodiscard]] Bytes memory_of(const Trace& trace);

[[nodiscard]] std::string_view to_string(OpKind kind);

}  // namespace peakcast
