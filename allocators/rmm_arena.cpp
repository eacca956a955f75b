#include "allocators/rmm_arena.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "allocators/policy_settings.hpp"
#include "allocators/size_classes.hpp"
#include "allocators/stream_heaps.hpp"
#include "sim/core/slots.hpp"

namespace peakcast {
namespace {

using namespace literals;

constexpr Bytes kLeast = 256_B;
constexpr Bytes kSuperblock = 1_MiB;
constexpr Bytes kGrowth = 64_MiB;

/// Free runs of one superblock, first fit by address, joined at once.
struct Superblock {
  Address base{};
  Bytes size{};
  std::map<Address, Bytes> free{};

  [[nodiscard]] bool empty() const { return free.size() == 1 && free.begin()->second == size; }
  [[nodiscard]] std::optional<Address> take(Bytes need) {
    for (auto run = free.begin(); run != free.end(); ++run) {
      if (run->second >= need) {
        const auto [start, length] = *run;
        free.erase(run);
        if (length > need) {
          free.emplace(start + need, length - need);
        }
        return start;
      }
    }
    return std::nullopt;
  }
  void give(Address start, Bytes length) {
    auto after = free.lower_bound(start);
    if (after != free.end() && after->first == start + length) {
      length += after->second;
      after = free.erase(after);
    }
    if (after != free.begin()) {
      const auto before = std::prev(after);
      if (before->first + before->second == start) {
        before->second += length;
        return;
      }
    }
    free.emplace(start, length);
  }
  [[nodiscard]] bool fits(Bytes need) const {
    return std::any_of(free.begin(), free.end(),
                       [&](const auto& run) { return run.second >= need; });
  }
};

/// Superblocks by address. Those without a free run are kept apart, so that a search passes them.
class Superblocks {
 public:
  void add(Superblock superblock) {
    auto& into = superblock.free.empty() ? full_ : open_;
    const Address base = superblock.base;
    into.emplace(base, std::move(superblock));
  }
  /// The lowest that fits `need`, and is empty if it has to be.
  [[nodiscard]] std::optional<Superblock> extract(Bytes need, bool empty = false) {
    for (auto at = open_.begin(); at != open_.end(); ++at) {
      if (at->second.fits(need) && (!empty || at->second.empty())) {
        return std::move(open_.extract(at).mapped());
      }
    }
    return std::nullopt;
  }
  [[nodiscard]] Superblock extract_holding(Address address) {
    for (auto* blocks : {&full_, &open_}) {
      auto at = blocks->upper_bound(address);
      if (at != blocks->begin()) {
        --at;
        if (address < at->second.base + at->second.size) {
          return std::move(blocks->extract(at).mapped());
        }
      }
    }
    check(false, "an address is in no superblock");
    return {};
  }
  /// An empty one that ends or begins at `address`, taken out; for joining.
  [[nodiscard]] std::optional<Superblock> extract_neighbour(Address address, bool ends) {
    auto at = ends ? open_.lower_bound(address) : open_.find(address);
    if (ends) {
      if (at == open_.begin()) {
        return std::nullopt;
      }
      --at;
    }
    if (at == open_.end() || !at->second.empty() ||
        (ends && at->second.base + at->second.size != address)) {
      return std::nullopt;
    }
    return std::move(open_.extract(at).mapped());
  }
  /// Takes out all that are empty.
  [[nodiscard]] std::vector<Superblock> extract_empty() {
    std::vector<Superblock> empty;
    for (auto at = open_.begin(); at != open_.end();) {
      const auto next = std::next(at);
      if (at->second.empty()) {
        empty.push_back(std::move(open_.extract(at).mapped()));
      }
      at = next;
    }
    return empty;
  }
  template <class Visit>
  void each(Visit visit) const {
    for (const auto* blocks : {&full_, &open_}) {
      for (const auto& [base, superblock] : *blocks) {
        visit(superblock);
      }
    }
  }

 private:
  std::map<Address, Superblock> open_{};
  std::map<Address, Superblock> full_{};
};

/// Shared by the arenas of all streams.
class GlobalArena {
 public:
  explicit GlobalArena(Bytes arena_size) : arena_size_{arena_size} {}

  static bool handles(Bytes size) { return size > kSuperblock; }

  /// A superblock with room for `need`; one for a stream's arena is empty: it changes hands whole.
  [[nodiscard]] std::optional<Superblock> acquire(Bytes need, Upstream& upstream, bool for_arena) {
    std::optional<Superblock> found = superblocks_.extract(need, for_arena);
    if (!found && grow(need, upstream)) {
      found = superblocks_.extract(need, for_arena);
    }
    if (!found) {
      return std::nullopt;
    }
    const Bytes size = std::max(need, kSuperblock);
    if (found->empty() && found->size >= size + kSuperblock) {
      const Address tail = found->base + size;
      superblocks_.add({tail, found->size - size, {{tail, found->size - size}}});
      found->size = size;
      found->free = {{found->base, size}};
    }
    return found;
  }
  void release(Superblock superblock) {
    if (superblock.empty()) {
      // Free superblocks that touch join, but not across the start of what the driver gave.
      if (!bases_.contains(superblock.base)) {
        if (auto before = superblocks_.extract_neighbour(superblock.base, true)) {
          before->size += superblock.size;
          superblock = *std::move(before);
        }
      }
      const Address end = superblock.base + superblock.size;
      if (!bases_.contains(end)) {
        if (const auto after = superblocks_.extract_neighbour(end, false)) {
          superblock.size += after->size;
        }
      }
      superblock.free = {{superblock.base, superblock.size}};
    }
    superblocks_.add(std::move(superblock));
  }
  [[nodiscard]] std::optional<Address> allocate(Bytes size, Upstream& upstream) {
    std::optional<Superblock> superblock = acquire(size, upstream, false);
    if (!superblock) {
      return std::nullopt;
    }
    const std::optional<Address> address = superblock->take(size);
    superblocks_.add(*std::move(superblock));
    return address;
  }
  void deallocate(Address address, Bytes size) {
    Superblock superblock = superblocks_.extract_holding(address);
    superblock.give(address, size);
    release(std::move(superblock));
  }
  [[nodiscard]] const Superblocks& superblocks() const { return superblocks_; }
  [[nodiscard]] const std::map<Address, Bytes>& segments() const { return bases_; }

 private:
  bool grow(Bytes need, Upstream& upstream) {
    if (arena_size_ > Bytes{}) {
      if (!bases_.empty()) {
        return false;
      }
      const std::optional<Address> base = upstream.acquire(arena_size_, StreamId{});
      if (base) {
        bases_.emplace(*base, arena_size_);
        release({*base, arena_size_, {{*base, arena_size_}}});
      }
      return base.has_value();
    }
    // One address range as large as the card, mapped from its start as far as it is needed.
    if (bases_.empty()) {
      const std::optional<Address> base =
          upstream.device().reserve(round_up(upstream.device().spec().total, 2_MiB));
      if (!base) {
        return false;
      }
      bases_.emplace(*base, Bytes{});
    }
    auto& [base, size] = *bases_.begin();
    const Address end = base + size;
    Bytes tail{};
    if (auto last = superblocks_.extract_neighbour(end, true)) {
      tail = last->size;
      superblocks_.add(*std::move(last));
    }
    const Bytes least = round_up(std::max(need, kSuperblock) - tail, 2_MiB);
    Bytes more = std::max(least, kGrowth);
    std::optional<PhysicalId> memory = upstream.create(more);
    if (!memory && more > least) {
      more = least;
      memory = upstream.create(more);
    }
    if (!memory) {
      return false;
    }
    upstream.device().map(end, *memory);
    upstream.say(Action::segment_map, end, more, StreamId{});
    size += more;
    release({end, more, {{end, more}}});
    return true;
  }

  Bytes arena_size_;
  Superblocks superblocks_{};
  std::map<Address, Bytes> bases_{};  ///< what the driver gave; one at most
};

class ArenaHeap final : public StreamHeap {
 public:
  ArenaHeap(Upstream& upstream, std::shared_ptr<GlobalArena> global)
      : upstream_{upstream}, global_{std::move(global)} {}

  [[nodiscard]] Bytes rounded(Bytes size) const override { return size_class(size, kLeast); }

  [[nodiscard]] std::optional<Grant> take(Bytes size) override {
    const Bytes need = rounded(size);
    std::optional<Address> address;
    if (GlobalArena::handles(need)) {
      address = global_->allocate(need, upstream_);
    } else {
      std::optional<Superblock> superblock = own_.extract(need);
      if (!superblock) {
        superblock = global_->acquire(need, upstream_, true);
      }
      if (superblock) {
        address = superblock->take(need);
        own_.add(*std::move(superblock));
      }
    }
    if (!address) {
      return std::nullopt;
    }
    const std::uint32_t number = taken_.take({*address, need, true});
    return Grant{*address, need, number};
  }

  void give(std::uint32_t number) override {
    const Taken taken = taken_[number];
    taken_[number].live = false;
    taken_.give_back(number);
    if (GlobalArena::handles(taken.size)) {
      global_->deallocate(taken.address, taken.size);
      return;
    }
    Superblock superblock = own_.extract_holding(taken.address);
    superblock.give(taken.address, taken.size);
    own_.add(std::move(superblock));
  }

  /// Empty superblocks go back to the global arena; nothing goes back to the driver.
  bool trim() override {
    std::vector<Superblock> empty = own_.extract_empty();
    for (Superblock& superblock : empty) {
      global_->release(std::move(superblock));
    }
    return !empty.empty();
  }

  [[nodiscard]] Bytes largest_free() const override {
    Bytes largest{};
    const auto look = [&](const Superblock& superblock) {
      for (const auto& [start, length] : superblock.free) {
        largest = std::max(largest, length);
      }
    };
    global_->superblocks().each(look);
    own_.each(look);
    return largest;
  }

  /// The segments are shared: the heap that is asked first adds them as one free block each, and
  /// every heap cuts its own blocks out of them.
  void append_to(HeapView& view) const override {
    for (const auto& [start, length] : global_->segments()) {
      const auto base = start;  // clang 14 captures no structured binding
      const auto size = length;
      if (std::none_of(view.segments.begin(), view.segments.end(),
                       [&](const SegmentView& segment) { return segment.address == base; })) {
        view.segments.push_back({.address = base, .size = size});
        view.segments.back().blocks.push_back({.address = base, .size = size});
      }
    }
    for (const Taken& taken : taken_) {
      if (taken.live) {
        place(view, taken);
      }
    }
  }

 private:
  struct Taken {
    Address address{};
    Bytes size{};
    bool live{};
  };
  /// Cuts the free block that covers `taken` in the segment that holds it.
  void place(HeapView& view, const Taken& taken) const {
    for (SegmentView& segment : view.segments) {
      if (taken.address < segment.address || segment.address + segment.size <= taken.address) {
        continue;
      }
      auto after = std::upper_bound(
          segment.blocks.begin(), segment.blocks.end(), taken.address,
          [](Address address, const BlockView& block) { return address < block.address; });
      const auto at = std::prev(after);
      const BlockView whole = *at;
      std::vector<BlockView> cut;
      if (whole.address < taken.address) {
        cut.push_back({.address = whole.address, .size = taken.address - whole.address});
      }
      cut.push_back({.address = taken.address, .size = taken.size, .state = BlockState::allocated});
      const Address end = taken.address + taken.size;
      if (end < whole.address + whole.size) {
        cut.push_back({.address = end, .size = whole.address + whole.size - end});
      }
      segment.blocks.insert(segment.blocks.erase(at), cut.begin(), cut.end());
    }
  }

  Upstream& upstream_;
  std::shared_ptr<GlobalArena> global_;
  Superblocks own_{};
  Slots<Taken> taken_{};
};

}  // namespace

Expected<std::unique_ptr<Allocator>> make_rmm_arena(Device& device, Streams& streams,
                                                    const PolicyOptions& options) {
  Bytes arena_size{};
  const std::array settings{PolicySetting{.key = "arena_size", .size = &arena_size}};
  if (const auto read = read_settings("rmm-arena", options, settings); !read) {
    return read.error();
  }
  arena_size = round_up(arena_size, 2_MiB);
  auto global = std::make_shared<GlobalArena>(arena_size);
  return std::unique_ptr<Allocator>{std::make_unique<StreamHeaps>(
      device, streams, StreamHeaps::Options{.name = "rmm-arena", .limit = options.limit},
      [global](Upstream& upstream, StreamId /*stream*/) {
        return std::make_unique<ArenaHeap>(upstream, global);
      })};
}

}  // namespace peakcast
