#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "allocators/free_index.hpp"
#include "allocators/pytorch/books.hpp"
#include "allocators/pytorch/settings.hpp"
#include "sim/alloc/allocator.hpp"
#include "sim/device/device.hpp"
#include "sim/device/streams.hpp"

namespace peakcast::pytorch {

/// (0, 0) is the default pool; graph captures get (k, 0), MemPools (0, k).
using PoolId = std::pair<std::uint64_t, std::uint64_t>;

/// PyTorch's native CUDA caching allocator, for one device: every decision of placement, growth,
/// release and failure, in its order, from a re-description of its source. What a recording showed
/// to be otherwise is said where the rule stands.
///
/// Costs: allocate and deallocate O(log f + 64) for f free blocks of the stream, plus driver calls.
class CachingAllocator final : public Allocator {
 public:
  struct Options {
    Version version{};
    Settings settings{};
    std::optional<Bytes> limit{};  ///< set_per_process_memory_fraction, in bytes
  };

  /// `device` and `streams` outlive this. Precondition: device.spec().total <= 1 TiB.
  CachingAllocator(Device& device, Streams& streams, Options options);
  ~CachingAllocator() override;
  CachingAllocator(const CachingAllocator&) = delete;
  CachingAllocator& operator=(const CachingAllocator&) = delete;

  [[nodiscard]] std::string_view name() const override { return "pytorch"; }
  [[nodiscard]] AllocOutcome allocate(const AllocRequest& request) override;
  void deallocate(BlockId block) override;
  [[nodiscard]] Served serve(std::span<const Op> ops, std::span<BlockId> blocks) override;
  void record_stream(BlockId block, StreamId stream) override;
  void empty_cache() override;
  void poll() override;
  /// Only with the settings that were recorded, on a card that can hold what was reserved.
  [[nodiscard]] Expected<std::vector<BlockId>> resume(const Trace& trace) override;
  void reset_peaks() override { books_.reset_peaks(); }
  [[nodiscard]] const Statistics& statistics() const override;
  [[nodiscard]] HeapView view() const override;

  /// Whole memory statistics: [0] small pool, [1] large pool, [2] all.
  [[nodiscard]] std::array<MemoryStatistics, 3> memory_statistics() const;
  [[nodiscard]] const Level& oversize_allocations() const { return oversize_allocations_; }
  [[nodiscard]] const Level& oversize_segments() const { return oversize_segments_; }
  /// The text of torch.cuda.OutOfMemoryError for `oom`, less the process list and the advice.
  [[nodiscard]] std::string message(const OutOfMemory& oom) const;
  /// Settings at run time (torch.cuda.memory._set_allocator_settings): same rules, no new limit.
  /// Precondition: no split block becomes oversize (max_split_size is no smaller than the segments
  /// that are split already). PyTorch would then free the middle of a segment and fail in CUDA;
  /// here the device's check aborts.
  void set_settings(const Settings& settings) {
    settings_ = settings;
    note_what_is_plain();
  }
  void set_limit(std::optional<Bytes> limit) { limit_ = to_limit(limit); }
  void set_sink(EventSink* sink) override {
    Allocator::set_sink(sink);
    note_what_is_plain();
  }

  // Private pools (CUDA graphs, torch.cuda.MemPool).
  struct MemPoolOptions {
    bool use_on_oom{};
    bool no_split{};
    Device* device{};  ///< where its segments come from; null: this allocator's device
  };
  /// torch.cuda.MemPool(): a pool with use count 1.
  [[nodiscard]] PoolId create_pool(const MemPoolOptions& options);
  /// The MemPool object dies: its pool is released and what it caches goes back.
  void destroy_pool(PoolId id);
  /// Requests that `filter` accepts go to pool `id` until end_allocate_to_pool(). While any pool
  /// is being allocated to, events are not polled and cached blocks are not released in full.
  void begin_allocate_to_pool(PoolId id, std::function<bool(StreamId)> filter);
  /// Ends it and drops the use that begin_allocate_to_pool() took.
  void end_allocate_to_pool(PoolId id);
  /// One use less; at 0 the pool may give back what it caches.
  void release_pool(PoolId id);

 private:
  static constexpr std::uint32_t kNone = 0xffffffffU;
  static constexpr std::uint32_t kNoBlock = 0;  // an entry that is never free: needs no test
  static constexpr std::uint64_t kNoLimit = ~0ULL;

  enum class State : std::uint8_t {
    none,  // kNoBlock, and ids that are not in use
    allocated,
    pending,   // dropped by the program; held by events, or deferred
    free,      // in the free index of its pool and stream
    unmapped,  // a gap of an expandable segment
  };
  struct Home {
    std::uint16_t stream{};
    std::uint16_t pool{};  // index into pools_
  };
  /// One cache line.
  struct alignas(64) Block {
    std::uint64_t address{};
    std::uint64_t size{};
    std::uint64_t requested{};
    std::uint64_t gc_base{};  // the pool's call count when the block was last put into its index
    std::uint32_t previous{kNoBlock};
    std::uint32_t next{kNoBlock};  // of an unused id: the next unused one
    std::uint32_t segment{kNone};  // expandable segment
    std::uint32_t uses{kNone};     // index into stream_uses_
    std::uint32_t events{};        // pending
    std::uint32_t slot{};          // in the free index
    Home home{};
    State state{State::none};
  };
  static_assert(sizeof(Block) == 64);

  struct PrivatePool;
  struct Pool {
    bool small{};
    /// By StreamId; the order over all is (stream, size, address).
    std::vector<std::unique_ptr<FreeIndex>> free{};
    /// Unmapped blocks of expandable segments: (stream, address) -> block.
    std::map<std::pair<std::uint16_t, std::uint64_t>, std::uint32_t> unmapped{};
    std::uint64_t calls{};  // the clock of garbage collection
    PrivatePool* owner{};   // null: a default pool
  };
  struct PrivatePool {
    PoolId id{};
    MemPoolOptions options{};
    std::int64_t use_count{};
    std::int64_t device_allocations{};
    std::uint8_t small{}, large{};  // indices into pools_
    bool freeable{};
  };
  struct ExpandableSegment {
    std::uint64_t base{};
    std::uint64_t size{};
    std::uint64_t page{};
    std::uint16_t stream{};
    std::vector<std::uint32_t> pages{};  // PhysicalId or kNone
    bool live{};
  };
  struct StreamUse {
    StreamId stream{};
    bool captured{};  // registered while a pool was being allocated to
  };
  struct PendingEvent {
    EventId event{};
    std::uint32_t block{};
  };
  struct Diversion {
    PoolId id{};
    std::function<bool(StreamId)> filter{};
  };

  /// An expandable segment that a recording began with: some of its pages are mapped.
  struct RecordedReservation {
    std::uint64_t base{};
    std::uint64_t size{};
    std::uint64_t page{};
    std::vector<const RecordedSegment*> runs{};  // ascending
  };

  static std::uint64_t to_limit(std::optional<Bytes> limit) {
    return limit ? static_cast<std::uint64_t>(limit->count()) : kNoLimit;
  }
  /// Pools are made in pairs, the small one first. 0: small, 1: large.
  static std::size_t kind_of(const Block& block) { return block.home.pool % 2; }
  static std::uint32_t units(std::uint64_t size) { return static_cast<std::uint32_t>(size / 512); }

  [[nodiscard]] std::uint64_t round_size(std::uint64_t size) const;
  [[nodiscard]] std::uint64_t allocation_size(std::uint64_t rounded) const;
  [[nodiscard]] std::uint8_t choose_pool(std::uint64_t rounded, StreamId stream) const;
  [[nodiscard]] bool expandable_for(const Pool& pool) const;
  [[nodiscard]] bool is_split(const Block& block) const {
    return (block.previous | block.next) != kNoBlock;
  }
  [[nodiscard]] bool should_split(const Block& block, std::uint64_t size, bool expandable) const;
  void note_what_is_plain();

  [[nodiscard]] std::uint32_t new_block();
  void grow_blocks();
  /// A block as it is given, behind `previous`, in the index of its state.
  [[nodiscard]] std::uint32_t add_block(const Block& block);
  void delete_block(std::uint32_t id);
  [[nodiscard]] FreeIndex& index_of(Home home) { return *pools_[home.pool].free[home.stream]; }
  void put_free(std::uint32_t id) {
    blocks_[id].state = State::free;
    put_free<false>(index_of(blocks_[id].home), id);
  }
  template <bool kPlain>
  void put_free(FreeIndex& index, std::uint32_t id);
  void take_free(std::uint32_t id) {
    note_taken(index_of(blocks_[id].home).erase(blocks_[id].slot));
  }
  void note_taken(const FreeIndex::Taken& taken) { blocks_[taken.moved].slot = taken.slot; }
  void put_unmapped(std::uint32_t id);
  void take_unmapped(std::uint32_t id);

  [[nodiscard]] std::uint32_t find_free(std::uint8_t pool, std::uint64_t size, std::uint16_t stream,
                                        bool expandable);
  [[nodiscard]] std::uint32_t grow(std::uint8_t pool, std::uint64_t size,
                                   std::uint64_t segment_size, std::uint16_t stream,
                                   bool expandable, bool retry);
  [[nodiscard]] std::uint32_t fall_back(std::uint8_t& pool, std::uint64_t size,
                                        std::uint16_t stream);
  [[nodiscard]] AllocOutcome allocate_anyhow(const AllocRequest& request);
  [[nodiscard]] std::uint32_t allocate_plainly(std::uint64_t requested, std::uint32_t stream);
  template <bool kPlain>
  [[nodiscard]] std::uint32_t hand_out(std::size_t kind, FreeIndex& index, std::uint32_t id,
                                       std::uint64_t size, std::uint64_t requested, bool split);
  [[nodiscard]] Placement placement_of(std::uint32_t id) const {
    const Block& block = blocks_[id];
    return {.block = BlockId{id},
            .address = Address{block.address},
            .size = Bytes{static_cast<std::int64_t>(block.size)}};
  }
  void free_now(std::uint32_t id);
  [[nodiscard]] OutOfMemory fail(std::uint64_t requested, std::uint64_t size,
                                 std::uint64_t segment_size, std::uint8_t pool,
                                 std::uint16_t stream);
  template <bool kPlain>
  void free_block(std::uint32_t id);
  void free_anyhow(std::uint32_t id);
  void free_pending(std::uint32_t id);
  void merge(std::uint32_t into, std::uint32_t from);
  void try_merge(std::uint32_t into, std::uint32_t from);

  void process_events();
  void insert_events(std::uint32_t id);
  void insert_deferred();
  void synchronize_and_free_events(const PrivatePool* pool);

  void garbage_collect();
  [[nodiscard]] bool release_available(std::uint8_t pool, std::uint64_t size, std::uint16_t stream);
  void release_cached(PoolId id);
  void release_blocks(std::uint8_t pool);
  void release_block(std::uint32_t id);

  [[nodiscard]] std::uint32_t find_expandable(std::uint8_t pool, std::uint16_t stream,
                                              std::uint64_t size);
  [[nodiscard]] std::uint32_t grow_expandable(std::uint8_t pool, std::uint16_t stream,
                                              std::uint64_t size);
  [[nodiscard]] bool map_block(std::uint32_t id, std::uint64_t want);
  void unmap_block(std::uint32_t id);
  [[nodiscard]] bool usable(std::uint32_t id) const;

  // resume.cpp
  [[nodiscard]] Bytes block_size(Bytes requested, Bytes room, const RecordedSegment& where) const;
  [[nodiscard]] std::optional<std::string> cannot_hold(
      const std::vector<RecordedSegment>& segments) const;
  [[nodiscard]] std::uint8_t resume_pool(const RecordedSegment& segment);
  [[nodiscard]] std::uint32_t resume_blocks(const RecordedSegment& segment, std::uint8_t pool,
                                            std::uint32_t reservation, std::uint32_t before,
                                            std::vector<BlockId>& in_use);
  void resume_segment(const RecordedSegment& segment, std::vector<BlockId>& in_use);
  void resume_reservation(const RecordedReservation& reservation, std::vector<BlockId>& in_use);
  [[nodiscard]] std::vector<RecordedReservation> reservations_of(
      const std::vector<RecordedSegment>& segments, const Recording& recording) const;

  [[nodiscard]] PrivatePool* find_private(PoolId id);
  void count_segment(const Block& block, std::int64_t sign);
  Device& device_of(const Pool& pool) const;

  Device& device_;
  Streams& streams_;
  Version version_;
  Settings settings_;
  std::uint64_t limit_;
  std::uint64_t held_{};  // total_allocated_memory: bytes held from the device, all pools

  std::vector<Block> blocks_{};
  std::uint32_t unused_block_{kNoBlock};  // the first of a list
  std::vector<Pool> pools_{};  // [0] default small, [1] default large, then private pairs
  std::vector<std::unique_ptr<PrivatePool>> private_pools_{};  // in order of id
  std::vector<ExpandableSegment> expandable_segments_{};
  std::vector<std::vector<StreamUse>> stream_uses_{};
  std::vector<std::uint32_t> unused_stream_uses_{};
  std::vector<std::deque<PendingEvent>> event_queues_{};  // by StreamId
  std::size_t pending_events_{};
  std::vector<std::uint32_t> deferred_{};
  std::vector<Diversion> diversions_{};
  std::uint64_t next_pool_{1};
  std::vector<std::uint8_t> resumed_pools_{};  // by RecordedSegment::pool - 1: its small pool
  std::uint32_t plain_streams_{};              // see note_what_is_plain()

  Books books_{};
  Level oversize_allocations_{};
  Level oversize_segments_{};
  mutable Statistics statistics_{};  // the counts; levels are filled in when asked for
};

}  // namespace peakcast::pytorch
