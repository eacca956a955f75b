#include "allocators/deferred_defrag.hpp"

#include <array>
#include <iterator>
#include <set>
#include <utility>

#include "allocators/policy_settings.hpp"
#include "allocators/segment_rules.hpp"

namespace peakcast {
namespace {

class AgeingLarge final : public CoalescingHeap<BestFit, LargeSegments> {
 public:
  using CoalescingHeap::CoalescingHeap;
  void set_age(std::int64_t age) { age_ = age; }

  [[nodiscard]] std::optional<Grant> take(Bytes size) override {
    ++clock_;
    release_aged();
    const Bytes need = rounded(size);
    const std::uint32_t fits = index_.find(need);
    if (fits == BlockList::kNone) {
      make_room(LargeSegments::segment_size(need));
    } else {
      forget(fits);
    }
    return CoalescingHeap::take(size);
  }

  bool trim() override {
    idle_by_age_.clear();
    idle_by_size_.clear();
    return CoalescingHeap::trim();
  }

 private:
  void became_free(std::uint32_t run) override {
    if (blocks_.whole(run)) {
      blocks_[run].tag = clock_;
      idle_by_age_.emplace(clock_, run);
      idle_by_size_.emplace(blocks_[run].size, run);
    }
  }
  void forget(std::uint32_t block) {
    if (blocks_.whole(block)) {
      idle_by_age_.erase({blocks_[block].tag, block});
      idle_by_size_.erase({blocks_[block].size, block});
    }
  }
  void release_idle(std::uint32_t block) {
    forget(block);
    release(block);
  }
  void release_aged() {
    while (!idle_by_age_.empty() && idle_by_age_.begin()->first + age_ <= clock_) {
      release_idle(idle_by_age_.begin()->second);
    }
  }
  void make_room(Bytes size) {
    Bytes gone{};
    while (gone < size && !idle_by_size_.empty()) {
      const std::uint32_t block = std::prev(idle_by_size_.end())->second;
      gone += blocks_[block].size;
      release_idle(block);
    }
  }

  std::int64_t clock_{};
  std::int64_t age_{};
  std::set<std::pair<std::int64_t, std::uint32_t>> idle_by_age_{};  ///< wholly free segments
  std::set<std::pair<Bytes, std::uint32_t>> idle_by_size_{};
};

class DeferredDefragHeap final : public TwoPools<AgeingLarge> {
 public:
  DeferredDefragHeap(Upstream& upstream, StreamId stream, std::int64_t age)
      : TwoPools{upstream, stream} {
    large_.set_age(age);
  }
};

}  // namespace

Expected<std::unique_ptr<Allocator>> make_deferred_defrag(Device& device, Streams& streams,
                                                          const PolicyOptions& options) {
  std::int64_t age = 8192;
  const std::array settings{PolicySetting{.key = "age", .count = &age, .minimum = 1}};
  if (const auto read = read_settings("deferred-defrag", options, settings); !read) {
    return read.error();
  }
  return std::unique_ptr<Allocator>{std::make_unique<StreamHeaps>(
      device, streams, StreamHeaps::Options{.name = "deferred-defrag", .limit = options.limit},
      [age](Upstream& upstream, StreamId stream) {
        return std::make_unique<DeferredDefragHeap>(upstream, stream, age);
      })};
}

}  // namespace peakcast
