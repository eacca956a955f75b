// A trace with its last iteration again and again.

#include "sim/trace/repeat.hpp"

#include <vector>

#include <gtest/gtest.h>

#include "sim/trace/validate.hpp"

namespace peakcast {
namespace {

Op mark() { return {.kind = OpKind::mark}; }
Op allocate(std::uint32_t id, std::int64_t size) {
  return {.value = size, .id = id, .kind = OpKind::allocate};
}
Op drop(std::uint32_t id) { return {.id = id, .kind = OpKind::free}; }

/// Weights; an iteration that leaves a gradient; one that frees it, uses its slot for a
/// temporary, and leaves another. Buffer 3 is left, too, and nothing ever frees it.
Trace training() {
  Trace trace;
  trace.buffer_slots = 4;
  trace.ops = {allocate(0, 1000), mark(),  allocate(1, 500), mark(),        drop(1),
               allocate(1, 70),   drop(1), allocate(2, 500), allocate(3, 8)};
  return trace;
}

TEST(RepeatLastIteration, FreesInACopyWhatTheCopyBeforeLeft) {
  const Expected<Trace> repeated = repeat_last_iteration(training(), 2);
  ASSERT_TRUE(repeated);
  // Born: 0 the temporary, 1 the gradient, 2 the one that nothing frees. Sets of slots: 4 to 6 and
  // 7 to 9.
  const std::vector<Op> copies(repeated->ops.begin() + 9, repeated->ops.end());
  const std::vector<Op> expected{
      mark(), drop(3), drop(2), allocate(4, 70), drop(4), allocate(5, 500), allocate(6, 8),
      mark(), drop(6), drop(5), allocate(7, 70), drop(7), allocate(8, 500), allocate(9, 8)};
  EXPECT_EQ(copies, expected);
  EXPECT_EQ(repeated->buffer_slots, 10U);
}

TEST(RepeatLastIteration, LivesNoMoreThanOneIterationDoes) {
  const Expected<Trace> repeated = repeat_last_iteration(training(), 50);
  ASSERT_TRUE(repeated);
  std::vector<std::int64_t> sizes(repeated->buffer_slots);
  std::int64_t live = 0;
  std::int64_t most = 0;
  for (const Op& op : repeated->ops) {
    if (op.kind == OpKind::allocate) {
      EXPECT_EQ(sizes[op.id], 0);
      sizes[op.id] = op.value;
      live += op.value;
    } else if (op.kind == OpKind::free) {
      EXPECT_GT(sizes[op.id], 0);
      live -= sizes[op.id];
      sizes[op.id] = 0;
    }
    most = std::max(most, live);
  }
  EXPECT_EQ(most, 1508);  // weights, gradient and the last one, before the gradient is freed
}

TEST(RepeatLastIteration, BringsBackWhatOtherStreamsHeldWhereACopyBegins) {
  Trace trace;
  trace.buffer_slots = 1;
  trace.streams = {0, 7};
  trace.ops = {
      mark(), allocate(0, 64), {.id = 0, .stream = 1, .kind = OpKind::record_stream}, drop(0)};
  const Expected<Trace> repeated = repeat_last_iteration(trace, 1);
  ASSERT_TRUE(repeated);
  ASSERT_EQ(repeated->ops.size(), 9U);
  EXPECT_EQ(repeated->ops[5], (Op{.id = 0, .kind = OpKind::complete}));
  EXPECT_EQ(repeated->ops[6].id, 1U);
}

TEST(RepeatLastIteration, RefusesATraceWithoutMarksAndOneTooLong) {
  Trace trace = training();
  EXPECT_FALSE(repeat_last_iteration(trace, kMostRepeatedOps));
  std::erase_if(trace.ops, [](const Op& op) { return op.kind == OpKind::mark; });
  EXPECT_FALSE(repeat_last_iteration(trace, 1));
}

}  // namespace
}  // namespace peakcast
