#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "sim/alloc/allocator.hpp"
#include "sim/core/slots.hpp"
#include "sim/device/device.hpp"
#include "sim/device/streams.hpp"

namespace peakcast {

/// What a heap of this folder gets memory from: the driver, with the policy's limit and books.
class Upstream {
 public:
  virtual ~Upstream() = default;
  /// A segment of cudaMalloc; nullopt: the limit or the card is full.
  [[nodiscard]] virtual std::optional<Address> acquire(Bytes size, StreamId stream) = 0;
  virtual void release(Address address, Bytes size, StreamId stream) = 0;
  /// Physical memory of the virtual-memory calls, counted as reserved. Mapping is the heap's.
  [[nodiscard]] virtual std::optional<PhysicalId> create(Bytes size) = 0;
  virtual void destroy(PhysicalId physical, Bytes size) = 0;
  /// Memory that the device took or gave by itself (pages behind a call): books only.
  virtual void count_reserved(Bytes change) = 0;
  virtual void count_segments(std::int64_t change) = 0;
  /// Whether `more` could be reserved as far as the policy's own limit goes.
  [[nodiscard]] virtual bool within_limit(Bytes more) const = 0;
  [[nodiscard]] virtual Device& device() = 0;
  virtual void say(Action action, Address address, Bytes size, StreamId stream) = 0;
  /// Host or device time that moving data cost (swapping).
  virtual void count_transfer(Bytes moved, SimDuration time) = 0;
};

/// What a heap hands out. `block` is the heap's own number for it.
struct Grant {
  Address address{};
  Bytes size{};
  std::uint32_t block{};
};

/// The part of a policy that decides about memory: which block, when to grow, what to return.
/// Streams, events, ids and books are StreamHeaps'. A heap knows its Upstream, which outlives it.
class StreamHeap {
 public:
  virtual ~StreamHeap() = default;
  /// The block's size for a request of `size` > 0.
  [[nodiscard]] virtual Bytes rounded(Bytes size) const = 0;
  /// Nullopt: nothing fits and the driver gives no more.
  [[nodiscard]] virtual std::optional<Grant> take(Bytes size) = 0;
  /// `block` may be used again at once.
  virtual void give(std::uint32_t block) = 0;
  /// Returns what it can to the driver. Whether anything went.
  virtual bool trim() = 0;
  [[nodiscard]] virtual Bytes largest_free() const = 0;
  /// Adds its segments; blocks that are handed out say `allocated`. Order does not matter.
  virtual void append_to(HeapView& view) const = 0;
  virtual void begin_iteration(std::int64_t /*index*/) {}

 protected:
  StreamHeap() = default;
  StreamHeap(const StreamHeap&) = delete;
  StreamHeap& operator=(const StreamHeap&) = delete;
};

/// An Allocator made of heaps: one per stream, or one for all. What all policies share: a block
/// that another stream used comes back when that stream's work has ended (an event per stream,
/// asked at each allocation); a request that fails waits for all events, has every heap return what
/// it can, and is tried once more. allocate: O(heap) plus the pending events.
class StreamHeaps final : public Allocator, private Upstream {
 public:
  using MakeHeap = std::function<std::unique_ptr<StreamHeap>(Upstream&, StreamId)>;
  struct Options {
    std::string_view name{};
    std::optional<Bytes> limit{};
    /// All streams share one heap: the policy orders streams by itself (on the device), or waits.
    bool one_heap{};
    /// A free waits for the device, so that nothing is ever pending.
    bool frees_wait{};
    /// A request that fails is not tried again.
    bool fails_at_once{};
  };
  /// `device` and `streams` outlive this.
  StreamHeaps(Device& device, Streams& streams, Options options, MakeHeap make_heap);
  ~StreamHeaps() override;
  StreamHeaps(const StreamHeaps&) = delete;
  StreamHeaps& operator=(const StreamHeaps&) = delete;

  [[nodiscard]] std::string_view name() const override { return options_.name; }
  [[nodiscard]] AllocOutcome allocate(const AllocRequest& request) override;
  void deallocate(BlockId block) override;
  void record_stream(BlockId block, StreamId stream) override;
  void empty_cache() override;
  void poll() override;
  void begin_iteration(std::int64_t index) override;
  [[nodiscard]] const Statistics& statistics() const override { return statistics_; }
  [[nodiscard]] HeapView view() const override;
  [[nodiscard]] Transfers transfers() const override { return transfers_; }

 private:
  struct Live {
    Grant grant{};
    Bytes requested{};
    StreamId stream{};
    StreamHeap* heap{};
    std::uint32_t events{};
    BlockState state{BlockState::free};  ///< free: the slot is unused
    std::vector<StreamId> uses{};
  };
  struct Pending {
    EventId event{};
    std::uint32_t slot{};
  };

  [[nodiscard]] StreamHeap& heap_of(StreamId stream);
  void finish(std::uint32_t slot);
  void wait_for_all();
  bool trim_all();

  [[nodiscard]] std::optional<Address> acquire(Bytes size, StreamId stream) override;
  void release(Address address, Bytes size, StreamId stream) override;
  [[nodiscard]] std::optional<PhysicalId> create(Bytes size) override;
  void destroy(PhysicalId physical, Bytes size) override;
  void count_reserved(Bytes change) override;
  void count_segments(std::int64_t change) override;
  [[nodiscard]] bool within_limit(Bytes more) const override;
  [[nodiscard]] Device& device() override { return device_; }
  void say(Action action, Address address, Bytes size, StreamId stream) override {
    emit(action, address, size, stream);
  }
  void count_transfer(Bytes moved, SimDuration time) override;

  Device& device_;
  Streams& streams_;
  Options options_;
  MakeHeap make_heap_;
  std::vector<std::unique_ptr<StreamHeap>> heaps_{};  // by stream; null until one is needed
  Slots<Live> live_{};                                // by BlockId
  std::map<StreamId, std::deque<Pending>> pending_{};
  std::size_t pending_count_{};
  std::int64_t iteration_{-1};
  Bytes attempted_{};
  Statistics statistics_{};
  Transfers transfers_{};
};

}  // namespace peakcast
