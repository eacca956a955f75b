#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sim/core/error.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// Sizes beyond these are a fault of the input: they keep every sum that a replay makes (of
/// requests, of rounded sizes up to twice as large) inside 63 bits.
inline constexpr std::int64_t kLargestSize = std::int64_t{1} << 48;
inline constexpr std::int64_t kLargestSum = std::int64_t{1} << 61;
/// Device addresses stay below 2^62, so that an address plus any size does.
inline constexpr std::uint64_t kLargestAddress = std::uint64_t{1} << 62;

/// Why entry `event` cannot be; the reader turns the index into a line or an offset.
struct BadEvent {
  std::size_t event{};
  std::string why{};
};

/// Makes the program (ops, buffer slots, labels and times per op, event_of_op) from the recorded
/// entries in trace.recording; trace.streams names their streams. Marks are not its business.
///
/// alloc, oom and free_requested are the program's own; the rest is the allocator's doing and
/// shows what the program cannot:
/// - free_requested and at once free_completed of one address: `free`. Otherwise another stream
///   held the buffer: `record_stream` (kUnknownStream), `free`, and `complete` where the late
///   free_completed stands. A slot is used again only after that.
/// - a late free_completed is noticed either by the poll with which each malloc begins, or by the
///   wait before cached segments are released. The wait completes everything, so completions
///   after which nothing is pending, followed by a release or an oom, are kAtSync; so are
///   completions that follow a release (the poll comes before any).
/// - segments released without growth before the next program entry: `empty_cache`. With growth it
///   was a request that failed first, unless that cannot be: when the final statistics say that no
///   request was ever retried (and neither garbage collection nor max_split_size_mb is on), when
///   the growth would have fitted under the recorded limit (neither garbage collection nor
///   expandable segments being on), or when a released segment would have served the request. Where
///   it cannot be told, a replay with recorded addresses does the same either way.
/// - a free_completed without its free_requested counts as both (old recordings).
///
/// An address that is freed but not live is a fault, unless `head_may_be_lost`: then it lived
/// before recording began, as did blocks in use in the final segments that no entry tells of. Such
/// buffers are allocated first, in address order, flagged kPreexisting, and head_lost is set; those
/// that the program had dropped already (a free_completed without its free_requested, in a
/// recording that has others) are then dropped, and held. These ops have no entry.
/// O(entries).
[[nodiscard]] std::optional<BadEvent> derive_program(Trace& trace, bool head_may_be_lost = false);

}  // namespace peakcast
