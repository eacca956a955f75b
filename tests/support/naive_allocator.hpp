#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "allocators/pytorch/caching_allocator.hpp"
#include "allocators/pytorch/settings.hpp"
#include "sim/alloc/allocator.hpp"
#include "sim/device/device.hpp"
#include "sim/device/streams.hpp"

namespace peakcast::support {

/// PyTorch's caching allocator once more: written from the specification's text alone, in its
/// order and its words, with ordered sets, and with no thought of speed. It shares parameter types
/// with the implementation under test and nothing else. Where the two differ, one of them misreads
/// the text.
class NaiveAllocator final : public Allocator {
 public:
  using Options = pytorch::CachingAllocator::Options;
  using MemPoolOptions = pytorch::CachingAllocator::MemPoolOptions;
  using PoolId = pytorch::PoolId;

  /// `device` and `streams` outlive this.
  NaiveAllocator(Device& device, Streams& streams, Options options);
  ~NaiveAllocator() override;
  NaiveAllocator(const NaiveAllocator&) = delete;
  NaiveAllocator& operator=(const NaiveAllocator&) = delete;

  [[nodiscard]] std::string_view name() const override { return "naive"; }
  [[nodiscard]] AllocOutcome allocate(const AllocRequest& request) override;
  void deallocate(BlockId block) override;
  void record_stream(BlockId block, StreamId stream) override;
  void empty_cache() override;
  void poll() override;
  [[nodiscard]] const Statistics& statistics() const override;
  [[nodiscard]] HeapView view() const override;

  void set_settings(const pytorch::Settings& settings) { settings_ = settings; }
  void set_limit(std::optional<Bytes> limit);
  [[nodiscard]] PoolId create_pool(const MemPoolOptions& options);
  void destroy_pool(PoolId id);
  void begin_allocate_to_pool(PoolId id, std::function<bool(StreamId)> filter);
  void end_allocate_to_pool(PoolId id);
  void release_pool(PoolId id);

  /// In the order of memory_stat_names().
  [[nodiscard]] std::vector<std::int64_t> memory_stats() const;

 private:
  struct Pool;
  struct PrivatePool;
  struct ExpandableSegment;
  /// Section 2.1.
  struct Block {
    std::uint32_t stream{};
    std::uint64_t ptr{};
    std::uint64_t size{};
    std::uint64_t requested_size{};
    Pool* pool{};
    bool allocated{};
    bool mapped{true};
    Block* prev{};
    Block* next{};
    std::set<std::uint32_t> stream_uses{};
    std::set<std::uint32_t> uses_in_capture{};
    int event_count{};
    std::uint64_t gc_count_base{};
    ExpandableSegment* segment{};
    std::uint32_t id{};
    [[nodiscard]] bool is_split() const { return prev != nullptr || next != nullptr; }
    [[nodiscard]] bool held() const { return event_count > 0 || !stream_uses.empty(); }
  };
  struct ByStreamSizePtr {
    bool operator()(const Block* a, const Block* b) const {
      return std::tuple{a->stream, a->size, a->ptr} < std::tuple{b->stream, b->size, b->ptr};
    }
  };
  struct ByStreamPtr {
    bool operator()(const Block* a, const Block* b) const {
      return std::tuple{a->stream, a->ptr} < std::tuple{b->stream, b->ptr};
    }
  };
  using FreeSet = std::set<Block*, ByStreamSizePtr>;
  /// Section 2.2.
  struct Pool {
    bool small{};
    PrivatePool* owner{};
    FreeSet blocks{};
    std::set<Block*, ByStreamPtr> unmapped{};
    std::uint64_t call_count{};
  };
  struct PrivatePool {
    PoolId id{};
    MemPoolOptions options{};
    int use_count{};
    std::int64_t device_allocations{};
    Pool small{.small = true};
    Pool large{};
  };
  struct ExpandableSegment {
    std::uint64_t base{};
    std::uint64_t size{};
    std::uint64_t page{};
    std::map<std::uint64_t, PhysicalId> pages{};  // by address
  };
  struct Entry {
    std::int64_t current{}, peak{}, allocated{}, freed{};
    void increase(std::int64_t by);
    void decrease(std::int64_t by);
  };
  enum Stat : std::uint8_t {
    allocation,
    segment,
    active,
    inactive_split,
    allocated_bytes,
    reserved_bytes,
    active_bytes,
    inactive_split_bytes,
    requested_bytes,
  };
  struct Diversion {
    PoolId id{};
    std::function<bool(StreamId)> filter{};
  };

  void up(Stat stat, const Pool& pool, std::int64_t by);
  void down(Stat stat, const Pool& pool, std::int64_t by);
  /// Whichever of the two fits the sign.
  void change(Stat stat, const Pool& pool, std::int64_t by);
  [[nodiscard]] std::int64_t now(Stat stat) const;

  Block* make_block();
  void destroy_block(Block* block);
  void put(Block* block);

  [[nodiscard]] std::uint64_t round_size(std::uint64_t n) const;
  [[nodiscard]] std::uint64_t allocation_size(std::uint64_t rounded) const;
  Pool& choose_pool(std::uint64_t size, StreamId stream);
  [[nodiscard]] bool expandable_in_force(const Pool& pool) const;
  [[nodiscard]] bool collects() const;
  Block* get_free_block(Pool& pool, std::uint64_t size, std::uint32_t stream, bool exp);
  Block* alloc_block(Pool& pool, std::uint64_t size, std::uint64_t asz, std::uint32_t stream,
                     bool exp, bool retry);
  Block* mempool_fallback(const Pool& pool, std::uint64_t size, std::uint32_t stream);
  [[nodiscard]] bool should_split(const Block& block, std::uint64_t size, bool exp) const;
  Placement hand_out(Block* block, std::uint64_t size, std::uint64_t n, bool split);

  void free_block(Block* block);
  std::uint64_t try_merge(Block* dst, Block* src);
  void process_events();
  void flush_deferred();
  void insert_events(Block* block);
  void synchronize_and_free_events(const PrivatePool* pool);
  void garbage_collect();
  bool release_available_cached_blocks(Pool& pool, std::uint64_t size, std::uint32_t stream);
  void release_block(Block* block);
  void release_cached_blocks(PoolId id);
  void release_blocks(Pool& pool);

  Block* find_expandable(Pool& pool, std::uint32_t stream, std::uint64_t size);
  Block* try_allocate_expandable(Pool& pool, std::uint32_t stream, std::uint64_t size);
  bool map_block(Block* block, std::uint64_t want);
  void unmap_block(Block* block);

  Device& device_;
  Streams& streams_;
  pytorch::Version version_;
  pytorch::Settings settings_;
  std::optional<std::uint64_t> allowed_{};
  std::uint64_t total_allocated_memory_{};
  Pool small_{.small = true};
  Pool large_{};
  std::map<PoolId, std::unique_ptr<PrivatePool>> private_pools_{};
  std::uint64_t pools_made_{};
  std::vector<Diversion> diversions_{};
  std::unordered_map<const Block*, std::unique_ptr<Block>> blocks_{};  // never iterated
  std::unordered_map<const ExpandableSegment*, std::unique_ptr<ExpandableSegment>>
      segments_{};                            // never iterated
  std::map<std::uint32_t, Block*> active_{};  // active_blocks, by the id given out
  std::uint32_t next_id_{};
  std::map<std::uint32_t, std::deque<std::pair<EventId, Block*>>> events_{};  // by stream
  std::vector<Block*> deferred_{};
  std::array<std::array<Entry, 3>, 9> stats_{};  // [Stat][all, small, large]
  Entry oversize_allocations_{};
  Entry oversize_segments_{};
  std::int64_t num_alloc_retries_{}, num_ooms_{}, num_sync_all_streams_{}, num_device_alloc_{},
      num_device_free_{};
  mutable Statistics statistics_{};
};

}  // namespace peakcast::support
