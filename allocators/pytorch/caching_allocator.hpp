#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "allocators/free_index.hpp"
#include "allocators/pytorch/settings.hpp"
#include "sim/alloc/allocator.hpp"
#include "sim/device/device.hpp"
#include "sim/device/streams.hpp"

namespace peakcast::pytorch {

/// torch.cuda.memory_stats()' entries for one of {small_pool, large_pool}, and `all`.
struct MemoryStatistics {
  Level allocation{}, segment{}, active{}, inactive_split{};  ///< counts
  Level allocated_bytes{}, reserved_bytes{}, active_bytes{}, inactive_split_bytes{},
      requested_bytes{};
};

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
  void record_stream(BlockId block, StreamId stream) override;
  void empty_cache() override;
  void poll() override;
  [[nodiscard]] const Statistics& statistics() const override;
  [[nodiscard]] HeapView view() const override;

  /// Whole memory statistics: [0] small pool, [1] large pool, [2] all.
  [[nodiscard]] std::array<MemoryStatistics, 3> memory_statistics() const;
  [[nodiscard]] const Level& oversize_allocations() const { return oversize_allocations_; }
  [[nodiscard]] const Level& oversize_segments() const { return oversize_segments_; }
  /// The text of torch.cuda.OutOfMemoryError for `oom`, less the process list and the advice.
  [[nodiscard]] std::string message(const OutOfMemory& oom) const;
  /// Settings at run time (torch.cuda.memory._set_allocator_settings): same rules, no new limit.
  void set_settings(const Settings& settings) { settings_ = settings; }
  void set_limit(std::optional<Bytes> limit) { limit_ = to_limit(limit); }

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
  static constexpr std::uint64_t kNoLimit = ~0ULL;

  /// One cache line.
  struct alignas(64) Block {
    std::uint64_t address{};
    std::uint64_t size{};
    std::uint64_t requested{};
    std::uint64_t gc_base{};  // the pool's call count when the block was last put into its index
    std::uint32_t previous{kNone};
    std::uint32_t next{kNone};
    std::uint32_t segment{kNone};  // expandable segment
    std::uint32_t uses{kNone};     // index into stream_uses_
    std::uint32_t events{};        // pending
    std::uint32_t slot{};          // in the free index
    std::uint16_t stream{};
    std::uint8_t pool{};  // index into pools_
    bool allocated : 1 {};
    bool mapped : 1 {true};
    bool live : 1 {};
  };
  static_assert(sizeof(Block) == 64);

  struct PrivatePool;
  struct Pool {
    bool small{};
    std::vector<FreeIndex> free{};  // by StreamId; the order over all is (stream, size, address)
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

  static std::uint64_t to_limit(std::optional<Bytes> limit) {
    return limit ? static_cast<std::uint64_t>(limit->count()) : kNoLimit;
  }
  static std::uint32_t units(std::uint64_t size) { return static_cast<std::uint32_t>(size / 512); }

  [[nodiscard]] std::uint64_t round_size(std::uint64_t size) const;
  [[nodiscard]] std::uint64_t allocation_size(std::uint64_t rounded) const;
  [[nodiscard]] std::uint8_t choose_pool(std::uint64_t rounded, StreamId stream) const;
  [[nodiscard]] bool expandable_for(const Pool& pool) const;
  [[nodiscard]] bool is_split(const Block& block) const {
    return block.previous != kNone || block.next != kNone;
  }
  [[nodiscard]] bool should_split(const Block& block, std::uint64_t size, bool expandable) const;
  FreeIndex& index_of(Pool& pool, std::uint16_t stream);

  [[nodiscard]] std::uint32_t new_block();
  void delete_block(std::uint32_t id);
  void put_free(std::uint32_t id);
  void take_free(std::uint32_t id);
  void erase_from(FreeIndex& index, std::uint64_t size, std::uint32_t slot);
  void put_unmapped(std::uint32_t id);
  void take_unmapped(std::uint32_t id);

  [[nodiscard]] std::uint32_t find_free(std::uint8_t pool, std::uint64_t size, std::uint16_t stream,
                                        bool expandable);
  [[nodiscard]] std::uint32_t grow(std::uint8_t pool, std::uint64_t size,
                                   std::uint64_t segment_size, std::uint16_t stream,
                                   bool expandable, bool retry);
  [[nodiscard]] std::uint32_t fall_back(std::uint8_t& pool, std::uint64_t size,
                                        std::uint16_t stream);
  [[nodiscard]] Placement hand_out(std::uint32_t id, std::uint64_t size, std::uint64_t requested,
                                   bool split, bool indexed);
  [[nodiscard]] OutOfMemory fail(std::uint64_t requested, std::uint64_t size,
                                 std::uint64_t segment_size, std::uint8_t pool,
                                 std::uint16_t stream);
  void free_block(std::uint32_t id);
  void free_pending(std::uint32_t id);
  std::uint64_t try_merge(std::uint32_t into, std::uint32_t from);

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
  std::vector<std::uint32_t> unused_blocks_{};
  std::vector<Pool> pools_{};  // [0] default small, [1] default large, then private pairs
  std::vector<std::unique_ptr<PrivatePool>> private_pools_{};  // in order of id
  std::vector<ExpandableSegment> expandable_segments_{};
  std::vector<std::vector<StreamUse>> stream_uses_{};
  std::vector<std::uint32_t> unused_stream_uses_{};
  std::vector<std::deque<PendingEvent>> event_queues_{};  // by StreamId
  std::size_t pending_events_{};
  std::int64_t pending_blocks_{};  // dropped by the program, held by events or deferred
  std::vector<std::uint32_t> deferred_{};
  std::vector<Diversion> diversions_{};
  std::uint64_t next_pool_{1};

  /// What changes with every hand-out and free, kept small: `all` is the sum of the two pools but
  /// for its peak, and active is allocated plus pending but for its peak.
  struct HotLevel {
    std::array<Level, 2> pool{};  // [small, large]
    std::int64_t all_peak{};
    void increase(int kind, std::int64_t by) {
      pool[static_cast<std::size_t>(kind)].increase(by);
      const std::int64_t now = all();
      all_peak = now > all_peak ? now : all_peak;
    }
    void decrease(int kind, std::int64_t by) { pool[static_cast<std::size_t>(kind)].decrease(by); }
    [[nodiscard]] std::int64_t all() const { return pool[0].current + pool[1].current; }
  };
  /// Blocks that the program dropped and other streams still hold. `peak` is the highest sum of
  /// allocated and pending among the moments at which something was pending.
  struct Pending {
    std::array<std::int64_t, 2> current{};
    std::array<std::int64_t, 3> peak{};
  };
  void note_pending(Pending& pending, const HotLevel& level);
  static Level level_of(const HotLevel& level, const Pending* pending, int kind);
  HotLevel allocation_{}, allocated_bytes_{}, requested_bytes_{};
  HotLevel inactive_split_{}, inactive_split_bytes_{};
  Pending pending_count_{}, pending_bytes_{};
  std::array<MemoryStatistics, 3> books_{};  // segment and reserved_bytes: rarely changed
  Level oversize_allocations_{};
  Level oversize_segments_{};
  mutable Statistics statistics_{};  // the counts; levels are filled in when asked for
};

}  // namespace peakcast::pytorch
