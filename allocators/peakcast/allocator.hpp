#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "allocators/peakcast/extents.hpp"
#include "allocators/peakcast/handles.hpp"
#include "allocators/peakcast/repeats.hpp"
#include "allocators/peakcast/stitch.hpp"
#include "allocators/peakcast/stream_order.hpp"
#include "allocators/peakcast/tuning.hpp"
#include "allocators/peakcast/views.hpp"
#include "allocators/registry.hpp"
#include "sim/alloc/allocator.hpp"

namespace peakcast::near_floor {

/// The policy `peakcast`: one heap for all sizes and streams that holds little more than what lives
/// at once. README.md tells how. A request is served, in this order, by
///  1. the place that the same request had a period ago (repeats.hpp);
///  2. the smallest hole that is large enough;
///  3. growth, while what is held stays within the slack over the largest live sum;
///  4. holes stitched together (stitch.hpp, views.hpp);
///  5. the same and growth by what they lack.
/// allocate and deallocate: O(log) beside driver calls and 3 to 5, which look at the holes of
/// 256 KiB and more.
class NearFloorAllocator final : public Allocator {
 public:
  /// `device` and `streams` outlive this.
  NearFloorAllocator(Device& device, Streams& streams, Tuning tuning, std::optional<Bytes> limit);
  ~NearFloorAllocator() override;
  NearFloorAllocator(const NearFloorAllocator&) = delete;
  NearFloorAllocator& operator=(const NearFloorAllocator&) = delete;

  [[nodiscard]] std::string_view name() const override { return "peakcast"; }
  [[nodiscard]] AllocOutcome allocate(const AllocRequest& request) override;
  void deallocate(BlockId block) override;
  [[nodiscard]] Served serve(std::span<const Op> ops, std::span<BlockId> blocks) override;
  void record_stream(BlockId block, StreamId stream) override;
  void empty_cache() override;
  void poll() override;
  [[nodiscard]] const Statistics& statistics() const override { return statistics_; }
  [[nodiscard]] HeapView view() const override;

  /// Mappings of memory beyond its home: what stitching has cost in address space.
  [[nodiscard]] std::int64_t stitched_mappings() const { return views_.mappings(); }

 private:
  static constexpr std::uint32_t kNone = Extents::kNone;
  struct Pending {
    EventId event{};
    std::uint32_t block{};
  };
  struct Uses {
    std::vector<StreamId> streams{};
    std::int32_t events{};
  };

  // Each of these gives a block of `size`, or kNone.
  [[nodiscard]] std::uint32_t place_as_before(std::uint64_t size, std::uint16_t stream);
  [[nodiscard]] std::uint32_t place_again(const Place& place, std::uint64_t size,
                                          std::uint16_t stream);
  [[nodiscard]] std::uint32_t place_apart(std::uint64_t size, std::uint16_t stream);
  [[nodiscard]] std::uint32_t place_anew(std::uint64_t size, std::uint16_t stream);
  [[nodiscard]] std::uint32_t place_in_hole(std::uint64_t size, std::uint16_t stream);
  [[nodiscard]] std::uint32_t place_in_view(std::uint32_t view, std::uint64_t offset,
                                            std::uint64_t size, std::uint16_t stream);
  [[nodiscard]] std::uint32_t stitch(std::uint64_t size, std::uint16_t stream);
  [[nodiscard]] std::uint32_t take(std::uint32_t extent, std::uint64_t home, std::uint64_t size,
                                   std::uint16_t stream);
  [[nodiscard]] std::uint32_t take_block(std::uint32_t extent, std::uint64_t home,
                                         std::uint64_t size, std::uint16_t stream);
  void note(std::uint32_t block);
  [[nodiscard]] std::uint64_t better_end(std::uint32_t hole, std::uint64_t size) const;
  /// A model is being loaded: next to nothing has been dropped yet.
  [[nodiscard]] bool is_early() const { return freed_ < allocated_ / 20; }
  /// Growth by at least `size`; what it got.
  std::uint64_t grow(std::uint64_t size, std::uint64_t want);
  [[nodiscard]] std::uint64_t part(std::int64_t per_million) const;
  [[nodiscard]] std::uint64_t top_hole();
  /// allocate() and deallocate(), for serve() too. A block, or kNone.
  [[nodiscard]] std::uint32_t hand_out(const AllocRequest& request);
  void take_back(std::uint32_t block);
  void finish(std::uint32_t block);
  void release(std::uint32_t block);
  void wait_for_pending();
  [[nodiscard]] OutOfMemory fail(const AllocRequest& request);
  void bound_mappings();

  Device& device_;
  Streams& streams_;
  Tuning tuning_;
  std::uint64_t limit_;
  std::uint64_t granularity_;
  std::uint64_t total_;  ///< of the card
  std::uint64_t begin_;  ///< of all homes
  Extents extents_;
  Handles handles_;
  Views views_;
  Stitcher stitcher_;
  Repeats repeats_{};
  StreamOrder order_;
  std::uint64_t live_{};          ///< bytes of blocks that the program has
  std::uint64_t largest_live_{};  ///< the most there ever were, the present request counted
  std::uint64_t freed_{};         ///< bytes of all blocks that were ever dropped
  std::uint64_t allocated_{};     ///< bytes of all blocks that were ever handed out
  std::uint64_t attempted_{};     ///< what the driver was last asked for
  std::unordered_map<std::uint32_t, Uses> uses_{};  ///< by block; never iterated
  std::vector<std::deque<Pending>> pending_{};      ///< by stream
  std::size_t pending_count_{};
  // Scratch, kept for its memory.
  std::vector<Range> parts_{};
  std::vector<std::uint32_t> holes_{};
  std::vector<Range> awaited_{};
  std::vector<std::uint64_t> reach_{};
  std::vector<std::uint32_t> sequence_{};
  Statistics statistics_{};
};

[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_near_floor(Device& device, Streams& streams,
                                                                   const PolicyOptions& options);

}  // namespace peakcast::near_floor
