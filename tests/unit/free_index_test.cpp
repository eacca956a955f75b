#include "allocators/free_index.hpp"

#include <cstdint>
#include <iterator>
#include <set>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/random.hpp"

namespace peakcast {
namespace {

using Entry = std::tuple<std::uint32_t, std::uint64_t, std::uint32_t>;  // size, address, block

/// The index and a std::set that must say the same; keeps the slots as a caller does.
class Pair {
 public:
  void insert(std::uint32_t size, std::uint64_t address, std::uint32_t block) {
    if (slots_.size() <= block) {
      slots_.resize(block + 1);
    }
    slots_[block] = index_.insert(size, address, block);
    set_.emplace(size, address, block);
  }
  void erase(const Entry& entry) {
    const std::uint32_t block = std::get<2>(entry);
    note(index_.erase(slots_[block]), block);
    set_.erase(entry);
  }
  /// Must take the smallest that is big enough, which it returns.
  std::uint32_t take_first(std::uint32_t size) {
    const auto at = set_.lower_bound(Entry{size, 0, 0});
    if (at == set_.end()) {
      EXPECT_EQ(index_.take_first(size).block, FreeIndex::kNone);
      return FreeIndex::kNone;
    }
    const std::uint32_t block = std::get<2>(*at);
    note(index_.take_first(size), block);
    set_.erase(at);
    return block;
  }
  void expect_equal(std::uint32_t size, std::uint64_t address) {
    const auto at = set_.lower_bound(Entry{size, address, 0});
    const std::uint32_t expected = at == set_.end() ? FreeIndex::kNone : std::get<2>(*at);
    ASSERT_EQ(index_.find(size, address), expected) << size << " at " << address;
    ASSERT_EQ(index_.empty(), set_.empty());
  }
  void expect_equal_order() const {
    std::vector<std::uint32_t> expected;
    for (const Entry& entry : set_) {
      expected.push_back(std::get<2>(entry));
    }
    ASSERT_EQ(index_.sorted(), expected);
  }
  [[nodiscard]] const std::set<Entry>& set() const { return set_; }

 private:
  void note(const FreeIndex::Taken& taken, std::uint32_t block) {
    EXPECT_EQ(taken.block, block);
    slots_.at(taken.moved) = taken.slot;
  }

  FreeIndex index_{};
  std::set<Entry> set_{};
  std::vector<std::uint32_t> slots_{};
};

TEST(FreeIndex, OfNothingFindsNothing) {
  FreeIndex index;
  EXPECT_TRUE(index.empty());
  EXPECT_EQ(index.take_first(1).block, FreeIndex::kNone);
  EXPECT_EQ(index.find(1), FreeIndex::kNone);
  EXPECT_EQ(index.find((1U << 31) - 1), FreeIndex::kNone);
  EXPECT_TRUE(index.sorted().empty());
}

TEST(FreeIndex, FindsTheSmallestThatIsBigEnoughAndTheLowestOfEquals) {
  FreeIndex index;
  index.insert(8, 0x4000, 0);
  index.insert(8, 0x2000, 1);
  index.insert(5, 0x9000, 2);
  index.insert(100, 0x1000, 3);
  EXPECT_EQ(index.find(1), 2U);
  EXPECT_EQ(index.find(6), 1U);
  EXPECT_EQ(index.find(8, 0x2200), 0U);  // from this address on
  EXPECT_EQ(index.find(9), 3U);
  EXPECT_EQ(index.find(101), FreeIndex::kNone);
  EXPECT_EQ(index.sorted(), (std::vector<std::uint32_t>{2, 1, 0, 3}));
}

TEST(FreeIndex, HoldsTheSmallestAndTheLargestSizes) {
  Pair pair;
  pair.insert(1, 512, 0);
  pair.insert((1U << 31) - 1, std::uint64_t{1} << 46, 1);
  pair.insert(1U << 30, 512, 2);
  pair.expect_equal(1, 0);
  pair.expect_equal(2, 0);
  pair.expect_equal((1U << 30) + 1, 0);
  pair.expect_equal_order();
}

TEST(FreeIndex, AgreesWithASetThroughRandomUse) {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    support::Random random{seed};
    Pair pair;
    // Few sizes make large classes, many make many.
    const std::uint64_t bits = random.one_of<std::uint64_t>({2, 5, 12, 30});
    const std::uint64_t most = random.one_of<std::uint64_t>({8, 100, 700});
    std::vector<std::uint32_t> unused;
    std::uint32_t next = 0;
    for (int step = 0; step < 4000; ++step) {
      const auto size = static_cast<std::uint32_t>(random.size_of_bits(0, bits));
      const std::uint64_t address = (1 + random.below((std::uint64_t{1} << 38) - 1)) * 512;
      if (pair.set().size() < most && !random.one_in(3)) {
        std::uint32_t block = next;
        if (unused.empty()) {
          ++next;
        } else {
          block = unused.back();
          unused.pop_back();
        }
        pair.insert(size, address, block);
      } else if (!pair.set().empty()) {
        const Entry entry = *std::next(
            pair.set().begin(), static_cast<std::ptrdiff_t>(random.below(pair.set().size())));
        unused.push_back(std::get<2>(entry));
        pair.erase(entry);
      }
      if (random.one_in(8)) {
        const std::uint32_t taken = pair.take_first(size);
        if (taken != FreeIndex::kNone) {
          unused.push_back(taken);
        }
      }
      pair.expect_equal(size, 0);
      pair.expect_equal(size, address);
      if (!pair.set().empty()) {
        // From just behind an entry on: its successor.
        const auto [s, a, b] = *std::next(
            pair.set().begin(), static_cast<std::ptrdiff_t>(random.below(pair.set().size())));
        pair.expect_equal(s, a);
        pair.expect_equal(s, a + 512);
      }
      if (step % 256 == 0) {
        pair.expect_equal_order();
      }
    }
  }
}

}  // namespace
}  // namespace peakcast
