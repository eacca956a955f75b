#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/allocator_event.hpp"
#include "sim/core/units.hpp"

namespace peakcast {

/// What a program does, op by op, in the order of the host thread.
enum class OpKind : std::uint8_t {
  allocate,       ///< buffer `id` of `value` bytes (> 0) on `stream`; flags: category, kAttempt
  free,           ///< the program drops buffer `id`
  record_stream,  ///< `stream` also uses buffer `id` (Tensor.record_stream)
  complete,       ///< recordings only: what held the dropped buffer `id` has ended; an allocator
                  ///< may notice from its next poll on (flags: kAtSync: only when it waits)
  empty_cache,    ///< torch.cuda.empty_cache()
  launch,         ///< a kernel of `value` ns on `stream`; the host pays its launch cost
  collective,  ///< a collective of `value` ns on `stream`, as `launch` but counted as communication
  record_event,  ///< event `id` is recorded on `stream`
  wait_event,    ///< `stream` waits for event `id` (the host does not)
  host_wait,     ///< the host waits for event `id`
  synchronize,   ///< the host waits for `stream`; flags: kAllStreams: for the whole device,
                 ///< kWithinDriver
  host_work,     ///< the host is busy for `value` ns
  mark,          ///< `id` is a string: what begins here; flags say which kind (MarkKind)
  // These say nothing about device memory, but about where the driver puts it:
  host_allocate,  ///< malloc of `value` bytes (> 0) in the process's own memory: buffer `id`
  host_free,      ///< the process drops its own buffer `id`
  driver_memory,  ///< the driver or a library takes `value` bytes of the device, for good
  local_memory,   ///< a kernel runs whose threads need `value` bytes of local memory each
};
inline constexpr int kOpKindCount = 17;

/// What a buffer holds, for the breakdown at the peak.
enum class Category : std::uint8_t {
  unknown,
  parameter,
  gradient,
  optimizer,
  activation,
  temporary,
  input,
  workspace,
  communication,
};
inline constexpr int kCategoryCount = 9;
[[nodiscard]] std::string_view to_string(Category category);

/// What a mark begins.
enum class MarkKind : std::uint8_t { iteration, phase, op };

/// Bits of Op::flags.
inline constexpr std::uint8_t kCategoryMask = 0x0f;  ///< allocate: the Category
inline constexpr std::uint8_t kMarkMask = 0x0f;      ///< mark: the MarkKind
inline constexpr std::uint8_t kAttempt = 0x10;  ///< allocate: failed when it was recorded. If it
                                                ///< succeeds in a replay it is dropped at once
inline constexpr std::uint8_t kAtSync = 0x20;   ///< complete: seen only by a waiting allocator
inline constexpr std::uint8_t kPreexisting = 0x40;   ///< allocate: lived before recording began
inline constexpr std::uint8_t kAllStreams = 0x10;    ///< synchronize
inline constexpr std::uint8_t kWithinDriver = 0x20;  ///< synchronize: inside another call of the
                                                     ///< driver's, of which its pool learns nothing

/// One op; 16 bytes, so that 10^8 of them fit in 1.6 GB.
struct Op {
  std::int64_t value{};  ///< bytes or ns, see OpKind
  std::uint32_t id{};    ///< buffer, event or string
  std::uint16_t stream{};
  OpKind kind{};
  std::uint8_t flags{};
  friend constexpr bool operator==(const Op&, const Op&) = default;
};
static_assert(sizeof(Op) == 16);

[[nodiscard]] constexpr Category category_of(const Op& op) {
  return static_cast<Category>(op.flags & kCategoryMask);
}
[[nodiscard]] constexpr MarkKind mark_kind_of(const Op& op) {
  return static_cast<MarkKind>(op.flags & kMarkMask);
}

/// A block as a recording's final snapshot shows it.
struct RecordedBlock {
  Bytes size{};
  Bytes requested{};
  bool allocated{};  ///< active_allocated
  bool active{};     ///< active_allocated or active_pending_free
  friend bool operator==(const RecordedBlock&, const RecordedBlock&) = default;
};
/// A process's private pools (CUDA graphs, MemPools) are fewer.
inline constexpr std::uint32_t kMostPools = 1 << 16;
/// A segment of a recording's final snapshot; its blocks tile it from `address` on.
struct RecordedSegment {
  Address address{};
  Bytes size{};
  StreamId stream{};
  bool small_pool{};
  bool expandable{};
  std::uint32_t pool{};  ///< 0: the default one; else a private pool (CUDA graph, MemPool), counted
                         ///< from 1 in the order of the file
  std::vector<RecordedBlock> blocks{};
  friend bool operator==(const RecordedSegment&, const RecordedSegment&) = default;
};
struct RecordedFigure {
  std::string name{};  ///< as in torch.cuda.memory_stats(), e.g. "reserved_bytes.all.peak"
  std::int64_t value{};
  friend bool operator==(const RecordedFigure&, const RecordedFigure&) = default;
};

/// Recording::event_of_op of an op that no entry tells of (a mark, a preexisting buffer).
inline constexpr std::uint32_t kNoEvent = 0xffffffff;

/// The handle, in Trace::streams, of "a stream that the recording does not name": what a
/// record_stream op uses when only the late free_completed shows that some stream held the buffer.
inline constexpr std::uint64_t kUnknownStream = 0xffffffffffffffff;

/// What the recorded allocator did while the program ran, kept beside the ops as a reference.
struct Recording {
  std::vector<AllocatorEvent> events{};      ///< every entry in order; `snapshot` entries included
  std::vector<std::uint32_t> event_of_op{};  ///< per op: index into `events` of the entry that the
                                             ///< op came from, or kNoEvent (empty when not known);
                                             ///< of empty_cache: one past the last entry it caused
  std::vector<std::int64_t> times_us{};      ///< per event; or empty
  std::vector<std::uint32_t> labels{};  ///< per event: a string's index + 1, 0 for none; or empty
  bool head_lost{};                     ///< recording began after the program: an exact replay
                                        ///< is not possible (some ops are kPreexisting)
  std::string framework{};              ///< that recorded it, e.g. "2.11.0+cu130"; or ""
  std::string alloc_conf{};             ///< the settings string in force ("" = defaults)
  std::optional<Bytes> limit{};         ///< the allocator's own limit
  std::optional<Bytes> device_total{};  ///< the card's memory
  std::vector<RecordedFigure> final_statistics{};  ///< in the file's order; may be empty
  std::vector<RecordedSegment> segments{};         ///< final snapshot; may be empty
  friend bool operator==(const Recording&, const Recording&) = default;
};

/// A program's use of memory. Names no address; a recording's addresses are in `recording`.
/// Buffer ids are slots: an id may be used again once its buffer was freed (and completed).
struct Trace {
  std::string source{};  ///< a file's name or a run's description
  std::vector<Op> ops{};
  std::vector<std::uint64_t> streams{0};  ///< handle per StreamId, strictly ascending: the order
                                          ///< of StreamIds is that of the handles, which
                                          ///< allocators sort by
  std::uint32_t buffer_slots{};           ///< every buffer id is below this
  std::uint32_t event_slots{};            ///< every event id is below this
  std::vector<std::string> strings{};     ///< labels and marks
  std::vector<std::uint32_t> labels{};    ///< per op: a string's index + 1, 0 for none; or empty
  std::vector<std::int64_t> times_us{};   ///< per op, recordings only; or empty
  std::optional<Recording> recording{};
  friend bool operator==(const Trace&, const Trace&) = default;
};

}  // namespace peakcast
