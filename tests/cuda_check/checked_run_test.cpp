#include "cuda_check/checked_run.hpp"

#include <utility>

#include <gtest/gtest.h>

#include "sim/device/simulated_device.hpp"
#include "tests/support/host_toucher.hpp"

namespace peakcast {
namespace {

using namespace literals;

DeviceSpec card(Bytes total) {
  return {.name = "test card", .total = total, .granularity = 2_MiB, .compute_major = 9};
}

Op allocate(std::uint32_t buffer, Bytes size) {
  return Op{.value = size.count(), .id = buffer, .stream = 0, .kind = OpKind::allocate, .flags = 0};
}
Op drop(std::uint32_t buffer) {
  return Op{.value = 0, .id = buffer, .stream = 0, .kind = OpKind::free, .flags = 0};
}

/// 30, 50 and 70 MiB come and go; the last request is more than a card of 256 MiB has left.
Trace little_program() {
  Trace trace;
  trace.buffer_slots = 4;
  trace.ops = {allocate(0, 30_MiB), allocate(1, 50_MiB), drop(0),
               allocate(0, 20_MiB), allocate(2, 70_MiB), drop(1),
               allocate(3, 220_MiB)};
  return trace;
}

/// A "real" device that is a simulated one with the given card.
struct Runs {
  CheckedRun real{};
  PolicyRun simulated{};
};
Runs run_both(Bytes real_total, Bytes simulated_total, Bytes outside = Bytes{}) {
  const Trace trace = little_program();
  SimulatedDevice device{{.spec = card(real_total), .outside = outside}};
  IdleStreams streams;
  testing::HostToucher toucher;
  const CheckedRunOptions options;
  return {run_checked(trace, device, device.spec(), streams, &toucher, options).value(),
          run_simulated(trace, card(simulated_total), outside, nullptr, options).value()};
}

TEST(CheckedRun, AgreesWithASimulationOfTheSameCard) {
  const Runs runs = run_both(1_GiB, 1_GiB);
  const Comparison comparison = compare_runs(runs.simulated, runs.real.run, 2_MiB);
  EXPECT_TRUE(comparison.good());
  EXPECT_FALSE(runs.real.run.report.oom);
  ASSERT_TRUE(runs.real.touch);
  EXPECT_EQ(runs.real.touch->bad_words, 0);
  EXPECT_EQ(comparison.largest_device_difference, Bytes{});
}

TEST(CheckedRun, AgreesOnTheEventAtWhichMemoryRunsOut) {
  const Runs runs = run_both(256_MiB, 256_MiB);
  ASSERT_TRUE(runs.real.run.report.oom);
  EXPECT_EQ(runs.real.run.report.oom->op_index, 6);
  EXPECT_TRUE(compare_runs(runs.simulated, runs.real.run, 2_MiB).good());
}

TEST(CheckedRun, SaysThatMemoryRanOutInOneAndNotInTheOther) {
  const Runs runs = run_both(256_MiB, 1_GiB);
  const Comparison comparison = compare_runs(runs.simulated, runs.real.run, 2_MiB);
  EXPECT_FALSE(comparison.same_oom);
  EXPECT_FALSE(comparison.same_segments());
  EXPECT_FALSE(comparison.good());
}

TEST(CheckedRun, CountsWhatTheDeviceTakesBeyondThePolicysSegments) {
  Runs runs = run_both(1_GiB, 1_GiB);
  // As if somebody else had taken 100 MiB while the run went on: more than a page a segment.
  runs.real.run.free_after -= 100_MiB;
  const Comparison comparison = compare_runs(runs.simulated, runs.real.run, 2_MiB);
  EXPECT_EQ(comparison.largest_device_difference, 100_MiB);
  EXPECT_FALSE(comparison.device_agrees());
}

TEST(CheckedRun, PlacesASimulationWhereTheDeviceDid) {
  const Trace trace = little_program();
  ModelledAddresses elsewhere{Address{0x400000000000}, Address{0x500000000000}};
  SimulatedDevice device{{.spec = card(1_GiB), .addresses = &elsewhere}};
  IdleStreams streams;
  const CheckedRunOptions options;
  const CheckedRun real =
      run_checked(trace, device, device.spec(), streams, nullptr, options).value();
  const PolicyRun simulated =
      run_simulated(trace, card(1_GiB), Bytes{}, &real.given, options).value();
  ASSERT_EQ(simulated.steps.size(), real.run.steps.size());
  for (std::size_t i = 0; i < simulated.steps.size(); ++i) {
    EXPECT_EQ(simulated.steps[i].address, real.run.steps[i].address) << i;
  }
}

TEST(CheckedRun, RefusesAnUnknownPolicy) {
  const Trace trace = little_program();
  CheckedRunOptions options;
  options.policy = "no-such-policy";
  EXPECT_FALSE(run_simulated(trace, card(1_GiB), Bytes{}, nullptr, options));
}

}  // namespace
}  // namespace peakcast
