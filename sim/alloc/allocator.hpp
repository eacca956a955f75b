#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "sim/core/allocator_event.hpp"
#include "sim/core/error.hpp"
#include "sim/core/units.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

struct AllocRequest {
  Bytes size{};  ///< > 0, as the program asked
  StreamId stream{};
};

/// A block that was handed out: [address, address + size), size >= the request.
struct Placement {
  BlockId block{};
  Address address{};
  Bytes size{};
};

/// A simulated out-of-memory is a result, with the numbers that explain it.
struct OutOfMemory {
  Bytes requested{};           ///< as the program asked
  Bytes rounded{};             ///< as the policy rounded it
  Bytes attempted{};           ///< what it last asked the device for
  Bytes device_free{};         ///< the device's free bytes at that moment
  Bytes largest_free_block{};  ///< of the request's stream and pool
  Bytes allocated{};
  Bytes reserved{};
};
using AllocOutcome = std::variant<Placement, OutOfMemory>;

/// Of a buffer that has no block; no policy hands it out.
inline constexpr BlockId kUnplaced{0xffffffffU};

/// How far Allocator::serve() came.
struct Served {
  std::size_t ops{};                     ///< these are done
  std::optional<OutOfMemory> failure{};  ///< the next one was tried, and this came of it
};

/// A level that is followed through time. allocated/freed are the sums of ups and downs.
struct Level {
  std::int64_t current{};
  std::int64_t peak{};
  std::int64_t allocated{};
  [[nodiscard]] std::int64_t freed() const { return allocated - current; }
  void increase(std::int64_t by) {
    current += by;
    allocated += by;
    if (current > peak) {
      peak = current;
    }
  }
  void decrease(std::int64_t by) { current -= by; }
};

/// Every policy's books, in PyTorch's words, over all pools together. Bytes unless said otherwise.
struct Statistics {
  Level requested{};
  Level allocated{};
  Level active{};
  Level reserved{};
  Level inactive_split{};
  Level segments{};     ///< a count
  Level allocations{};  ///< a count
  std::int64_t num_alloc_retries{};
  std::int64_t num_ooms{};
  std::int64_t num_device_alloc{};
  std::int64_t num_device_free{};
  std::int64_t num_sync_all_streams{};
};

/// What a policy moved between the card and the host, and the time that took.
struct Transfers {
  Bytes bytes{};
  SimDuration time{};
};

/// A block for the referee and for snapshots.
enum class BlockState : std::uint8_t {
  free,       ///< may be handed out
  allocated,  ///< the program has it
  pending,    ///< dropped, but another stream may still use it
};
struct BlockView {
  Address address{};
  Bytes size{};
  Bytes requested{};  ///< meaningful unless free
  BlockState state{};
  StreamId stream{};
};
/// Memory held from the device, contiguous in address space.
struct SegmentView {
  Address address{};
  Bytes size{};
  StreamId stream{};
  bool expandable{};
  bool small_pool{};
  bool on_host{};  ///< swapped out: its blocks are handed out, but it holds none of the card
  std::vector<BlockView> blocks{};  ///< ascending; they tile the segment
};
/// The whole heap: segments ascending by address. A test and report view, O(blocks) to make.
struct HeapView {
  std::vector<SegmentView> segments{};
};

/// A memory policy. Owns its books and its segments; borrows Device and Streams, which outlive it.
/// Serial: one call at a time. A policy reads no clock and no future.
class Allocator {
 public:
  virtual ~Allocator() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;

  [[nodiscard]] virtual AllocOutcome allocate(const AllocRequest& request) = 0;
  /// The program drops `block`. Precondition: live, and ours. The id may be handed out again.
  virtual void deallocate(BlockId block) = 0;
  /// allocate() and deallocate() for many ops in a row: stops at one that is neither an allocation
  /// nor a free, at an attempt (kAttempt), at a free of a buffer without a block, and at a failure.
  /// `blocks` has each buffer's block, or kUnplaced, and is kept up to date. A policy overrides it
  /// where a virtual call for each op would be felt.
  [[nodiscard]] virtual Served serve(std::span<const Op> ops, std::span<BlockId> blocks);
  /// Work on `stream`, not the block's own, uses the block too: after deallocate() it may be
  /// handed out again only when that work has ended.
  virtual void record_stream(BlockId block, StreamId stream) = 0;
  /// Returns to the device what can be returned (torch.cuda.empty_cache()).
  virtual void empty_cache() = 0;
  /// Takes back what has ended on other streams, as the policy would at its next allocation.
  /// A replay calls it where a recording shows that the recorded allocator noticed.
  virtual void poll() {}
  /// Starts from the heap that `trace`'s recording began with, instead of an empty one: its live
  /// blocks, cached segments and splits. Gives the blocks in use, by address: those of the trace's
  /// kPreexisting ops, in their order. Before any other call. An error, and nothing has changed,
  /// when the policy cannot (most know no heap of PyTorch's): its message says why.
  [[nodiscard]] virtual Expected<std::vector<BlockId>> resume(const Trace& /*trace*/) {
    return invalid_input("the policy begins with an empty heap");
  }
  /// torch.cuda.reset_peak_memory_stats(), for a run that starts in the middle.
  virtual void reset_peaks() {}
  /// The program begins iteration `index` (from 0). Most policies do not care.
  virtual void begin_iteration(std::int64_t /*index*/) {}

  [[nodiscard]] virtual const Statistics& statistics() const = 0;
  [[nodiscard]] virtual HeapView view() const = 0;
  /// Nothing, unless the policy swaps.
  [[nodiscard]] virtual Transfers transfers() const { return {}; }
  /// How the policy broke its promises, where that is found out at run time (a plug-in). It serves
  /// nothing from then on.
  [[nodiscard]] virtual std::optional<std::string> fault() const { return std::nullopt; }

  /// `sink` (may be null) hears of everything from now on; it outlives the allocator or is unset.
  virtual void set_sink(EventSink* sink) { sink_ = sink; }
  [[nodiscard]] EventSink* sink() const { return sink_; }

 protected:
  void emit(Action action, Address address, Bytes size, StreamId stream) {
    if (sink_ != nullptr) [[unlikely]] {
      sink_->on_event(AllocatorEvent{address, size, stream, action});
    }
  }
  [[nodiscard]] bool has_sink() const { return sink_ != nullptr; }

 private:
  EventSink* sink_{};
};

}  // namespace peakcast
