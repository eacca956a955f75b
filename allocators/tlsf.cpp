#include "allocators/tlsf.hpp"

#include <algorithm>
#include <array>
#include <bit>

#include "allocators/coalescing_heap.hpp"
#include "allocators/policy_settings.hpp"

namespace peakcast {
namespace {

using namespace literals;

constexpr int kStepBits = 5;
constexpr std::uint64_t kSteps = 1U << kStepBits;
constexpr Bytes kUnit = 512_B;

/// The least size of the next list, unless `units` is one already: what a search asks for.
constexpr std::uint64_t search_units(std::uint64_t units) {
  if (units < kSteps) {
    return units;
  }
  const auto shift = static_cast<int>(std::bit_width(units)) - 1 - kStepBits;
  const std::uint64_t step = std::uint64_t{1} << shift;
  return (units + step - 1) / step * step;
}
static_assert(search_units(31) == 31 && search_units(64) == 64 && search_units(65) == 66);

/// First level f, second level s: sizes [2^f + s 2^f/32, 2^f + (s+1) 2^f/32) in units. Below 32
/// units a list holds one size.
class TwoLevelLists {
 public:
  void insert(std::uint32_t number, const BlockList::Block& block) {
    const std::size_t list = list_of(units(block.size));
    if (links_.size() <= number) {
      links_.resize(number + 1);
    }
    links_[number] = Link{BlockList::kNone, heads_[list], block.size};
    if (heads_[list] != BlockList::kNone) {
      links_[heads_[list]].previous = number;
    }
    heads_[list] = number;
    set(list);
  }
  void erase(std::uint32_t number, const BlockList::Block& block) {
    const std::size_t list = list_of(units(block.size));
    const Link link = links_[number];
    if (link.next != BlockList::kNone) {
      links_[link.next].previous = link.previous;
    }
    if (link.previous != BlockList::kNone) {
      links_[link.previous].next = link.next;
    } else {
      heads_[list] = link.next;
      if (link.next == BlockList::kNone) {
        second_[list / kSteps] &= ~(std::uint64_t{1} << (list % kSteps));
        if (second_[list / kSteps] == 0) {
          first_ &= ~(std::uint64_t{1} << (list / kSteps));
        }
      }
    }
  }
  [[nodiscard]] std::uint32_t find(Bytes size) const {
    const std::uint64_t need = search_units(units(size));
    const std::size_t list = list_of(need);
    std::size_t f = list / kSteps;
    std::uint64_t steps = second_[f] & (~std::uint64_t{0} << (list % kSteps));
    if (steps == 0) {
      const std::uint64_t larger = f + 1 < kFirst ? first_ & (~std::uint64_t{0} << (f + 1)) : 0;
      if (larger == 0) {
        return BlockList::kNone;
      }
      f = static_cast<std::size_t>(std::countr_zero(larger));
      steps = second_[f];
    }
    return heads_[f * kSteps + static_cast<std::size_t>(std::countr_zero(steps))];
  }
  [[nodiscard]] Bytes largest() const {
    Bytes largest{};
    if (first_ != 0) {
      const auto f = static_cast<std::size_t>(std::bit_width(first_) - 1);
      const auto s = static_cast<std::size_t>(std::bit_width(second_[f]) - 1);
      for (std::uint32_t b = heads_[f * kSteps + s]; b != BlockList::kNone; b = links_[b].next) {
        largest = std::max(largest, links_[b].size);
      }
    }
    return largest;
  }

 private:
  static constexpr std::size_t kFirst = 48;
  struct Link {
    std::uint32_t previous{BlockList::kNone};
    std::uint32_t next{BlockList::kNone};
    Bytes size{};
  };
  static std::uint64_t units(Bytes size) {
    return static_cast<std::uint64_t>(size.count() / kUnit.count());
  }
  static std::size_t list_of(std::uint64_t units) {
    if (units < kSteps) {
      return units;
    }
    const auto shift = static_cast<std::size_t>(std::bit_width(units) - 1 - kStepBits);
    return (shift + 1) * kSteps + ((units >> shift) & (kSteps - 1));
  }
  void set(std::size_t list) {
    first_ |= std::uint64_t{1} << (list / kSteps);
    second_[list / kSteps] |= std::uint64_t{1} << (list % kSteps);
  }

  std::uint64_t first_{};
  std::array<std::uint64_t, kFirst> second_{};
  std::array<std::uint32_t, kFirst* kSteps> heads_ = [] {
    std::array<std::uint32_t, kFirst * kSteps> none{};
    none.fill(BlockList::kNone);
    return none;
  }();
  std::vector<Link> links_{};
};
static_assert(BlockIndex<TwoLevelLists>);

struct TlsfRules {
  Bytes segment{32_MiB};

  [[nodiscard]] Bytes rounded(Bytes size) const { return round_up(size, kUnit); }
  [[nodiscard]] bool splits(Bytes /*block*/, Bytes /*need*/) const { return true; }
  std::optional<std::pair<Address, Bytes>> grow(Bytes need, Upstream& upstream, StreamId stream) {
    // As large as a search for the request asks, or a freed segment would not be found again.
    const auto units = static_cast<std::uint64_t>(need.count() / kUnit.count());
    const Bytes least = round_up(kUnit * static_cast<std::int64_t>(search_units(units)), 2_MiB);
    Bytes size = std::max(least, segment);
    std::optional<Address> address = upstream.acquire(size, stream);
    if (!address && size > least) {
      size = least;
      address = upstream.acquire(size, stream);
    }
    if (!address) {
      return std::nullopt;
    }
    return std::pair{*address, size};
  }
  void released(Bytes /*size*/) {}
};
static_assert(CoalescingRules<TlsfRules>);

}  // namespace

Expected<std::unique_ptr<Allocator>> make_tlsf(Device& device, Streams& streams,
                                               const PolicyOptions& options) {
  TlsfRules rules;
  const std::array settings{
      PolicySetting{.key = "segment", .size = &rules.segment, .minimum = 512}};
  if (const auto read = read_settings("tlsf", options, settings); !read) {
    return read.error();
  }
  rules.segment = round_up(rules.segment, 2_MiB);
  return std::unique_ptr<Allocator>{std::make_unique<StreamHeaps>(
      device, streams, StreamHeaps::Options{.name = "tlsf", .limit = options.limit},
      [rules](Upstream& upstream, StreamId stream) {
        return std::make_unique<CoalescingHeap<TwoLevelLists, TlsfRules>>(upstream, stream, rules);
      })};
}

}  // namespace peakcast
