#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/alloc/allocator.hpp"
#include "sim/core/error.hpp"
#include "sim/core/units.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// Why bytes that a policy holds serve nobody at its reserved peak. Each such byte has one cause:
/// the first of these that is true of it.
enum class WasteCause : std::uint8_t {
  held_by_stream,  ///< the program dropped the block, another stream has not let go of it yet
  other_stream,    ///< free, in a segment of another stream than that of the request at the peak
  small_pool,      ///< free, in a segment that only small requests may use
  idle_segment,    ///< a segment in which nothing lives: it has the wrong size or place
  pinned_hole,     ///< free between blocks that live: they keep the segment from being returned
  outside_view,    ///< held, but in no segment that the policy can show (the driver's own pool)
};
inline constexpr int kWasteCauseCount = 6;
/// The word in JSON: the enumerator's name.
[[nodiscard]] std::string_view to_string(WasteCause cause);

/// Why a segment was taken although there may have been free bytes: the first that is true.
enum class GrowthReason : std::uint8_t {
  needed,          ///< all free bytes together were less than the request
  held_by_stream,  ///< a block that another stream still held would have done
  other_stream,    ///< a free block of another stream would have done
  other_pool,      ///< a free block of the other pool (small, large) would have done
  not_split,       ///< a free block was large enough, but the policy's rules keep it whole
  too_small,       ///< enough in all, but each free block was too small
};
[[nodiscard]] std::string_view to_string(GrowthReason reason);

/// A moment of the program. Strings are the trace's own; "" when it does not tell.
struct Moment {
  std::int64_t op{-1};                  ///< into Trace::ops; -1: before the trace began
  std::optional<std::int64_t> event{};  ///< of the recording, from 0
  std::int64_t iteration{-1};           ///< -1: before the first
  std::string phase{};
  std::string label{};  ///< operator, Python line, or whatever the trace keeps of an op
};

/// A block that lives (or is still held) in a segment with free bytes.
struct Pin {
  Bytes size{};
  Bytes requested{};
  StreamId stream{};
  bool pending{};  ///< held by another stream
  Category category{};
  Moment born{};
};

/// A segment of the reserved peak that has bytes which serve nobody.
struct WastedSegment {
  Address address{};
  Bytes size{};
  StreamId stream{};
  bool small_pool{};
  bool expandable{};
  Bytes unused{};        ///< free and held bytes
  Bytes largest_free{};  ///< block
  std::vector<BlockView> blocks{};
  // The growth that made it; of an expandable segment the last one. Absent when it was there before
  // the trace began, or when the policy does not say what it takes from the device.
  std::optional<Moment> born{};
  Bytes born_for{};  ///< the request, unrounded
  GrowthReason reason{};
  Bytes largest_usable{};   ///< the largest free block then that the request could have used
  Bytes free_then{};        ///< all free bytes then
  std::vector<Pin> pins{};  ///< largest first
};

struct MemoryRange {
  Address address{};
  Bytes size{};
};

/// At the reserved peak: reserved - allocated is the sum of `causes`.
struct Waste {
  Bytes reserved{};
  Bytes allocated{};
  Bytes requested{};
  Moment peak{};
  Bytes request{};  ///< that raised reserved to its peak
  /// What was taken from the device for it; absent when the policy does not tell.
  std::optional<MemoryRange> taken{};
  StreamId stream{};
  struct Cause {
    WasteCause cause{};
    Bytes bytes{};
    std::int64_t segments{};
    std::int64_t blocks{};
  };
  std::vector<Cause> causes{};            ///< in the enum's order, those with bytes
  std::vector<WastedSegment> segments{};  ///< most unused bytes first, then by address
};

/// Given the policy of a run, gives the allocator that the replay is to use in its place.
using PolicyWatch = std::function<Allocator&(Allocator& policy)>;

/// Runs the trace once, from the start, through a policy made afresh on a device made afresh, with
/// `watch` around the policy. The policy outlives no run.
using WatchedRun = std::function<Expected<Ok>(const PolicyWatch& watch)>;

/// What wastes memory at the first moment of the highest reserved. Runs the trace three times: to
/// find the peak, to look at it, and to see what was free when its segments were taken. An error is
/// the run's own. O(ops + segments at the peak * blocks).
[[nodiscard]] Expected<Waste> explain_waste(const Trace& trace, const WatchedRun& run);

}  // namespace peakcast
