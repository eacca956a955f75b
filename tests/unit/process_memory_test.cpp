// Where the host's memory lies, and what that does to the addresses of the device's.
#include "sim/device/process_memory.hpp"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "allocators/registry.hpp"
#include "sim/device/address_source.hpp"
#include "sim/device/held_streams.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/replay.hpp"

namespace peakcast {
namespace {

using namespace literals;

constexpr Address kTop{std::uint64_t{1} << 40};

class MappedMemory : public ::testing::Test {
 protected:
  /// Where the next page would go, as a distance below the top; it is given back at once.
  Bytes next_page() {
    const Address page = space_.map(4_KiB).value();
    space_.unmap(page, 4_KiB);
    return kTop - page;
  }
  AddressSpace space_{Address{0}, kTop};
  HostHeap heap_{};
};

TEST_F(MappedMemory, GoesToTheTopOfTheHighestGapThatHoldsIt) {
  const Address a = space_.map(8_KiB).value();
  const Address b = space_.map(5_KiB).value();  // whole pages
  const Address c = space_.map(4_KiB).value();
  EXPECT_EQ(kTop - a, 8_KiB);
  EXPECT_EQ(kTop - b, 16_KiB);
  EXPECT_EQ(kTop - c, 20_KiB);
  space_.unmap(b, 5_KiB);
  EXPECT_EQ(kTop - space_.map(12_KiB).value(), 32_KiB);  // the gap of 8 is too small
  EXPECT_EQ(space_.map(8_KiB), b);
  EXPECT_FALSE(space_.map(Bytes{std::int64_t{1} << 40}).has_value());
}

TEST_F(MappedMemory, IsAlignedByMappingMoreAndGivingBackWhatIsOver) {
  // 64 MiB less a page below the top begins at -64 MiB + 4 KiB: aligned up, 32 MiB below the top.
  EXPECT_EQ(kTop - space_.map_aligned(32_MiB, 32_MiB).value(), 32_MiB);
  // [-40, -32) is taken: the mapping ends there, the aligned part at -64.
  static_cast<void>(space_.map(8_MiB));
  EXPECT_EQ(kTop - space_.map_aligned(32_MiB, 32_MiB).value(), 96_MiB);
  EXPECT_EQ(next_page(), 40_MiB + 4_KiB);  // what was over is free
}

TEST_F(MappedMemory, OfMallocBeginsAt4MebibytesAndHasAPageMore) {
  heap_.allocate(space_, 0, 3_MiB);  // in the heap
  EXPECT_EQ(next_page(), 4_KiB);
  heap_.allocate(space_, 1, 4_MiB);  // 4 MiB + 120 bytes, in pages
  EXPECT_EQ(next_page(), 4_MiB + 8_KiB);
  heap_.free(space_, 0);
  heap_.free(space_, 1);
  EXPECT_EQ(next_page(), 4_KiB);
}

TEST_F(MappedMemory, OfMallocEndsAtTheSizeThatWasFreed) {
  heap_.allocate(space_, 0, 16_MiB);
  heap_.free(space_, 0);
  heap_.allocate(space_, 1, 16_MiB);  // as large as the block that was freed: in the heap now
  EXPECT_EQ(next_page(), 4_KiB);
  heap_.allocate(space_, 2, 17_MiB);
  EXPECT_EQ(next_page(), 17_MiB + 8_KiB);
  heap_.free(space_, 2);
  heap_.allocate(space_, 3, 32_MiB);  // with its page over 32 MiB: mapped whatever was freed
  heap_.free(space_, 3);
  heap_.allocate(space_, 4, 32_MiB);
  EXPECT_EQ(next_page(), 32_MiB + 8_KiB);
}

TEST_F(MappedMemory, IsNoMoreThanAMachineHas) {
  heap_.allocate(space_, 0, Bytes{std::int64_t{1} << 46});
  EXPECT_EQ(next_page(), 4_KiB);
}

// A process with 100 MiB (buffer 0) and then 300 MiB (buffer 1) of its own below the top, each with
// a page more; the context below them.
class AmongHostMemory : public ::testing::Test {
 protected:
  AmongHostMemory() {
    addresses_.host_allocate(0, 100_MiB);
    addresses_.host_allocate(1, 300_MiB);
  }
  Bytes below_top(Bytes size) { return kTop - addresses_.acquire(size).value(); }
  ModelledAddresses addresses_{kTop, Address{0x302000000}};
};

TEST_F(AmongHostMemory, ChunksFillTheHolesThatFreedTensorsLeave) {
  const Bytes bottom = below_top(32_MiB);
  EXPECT_GT(bottom, 8_GiB);  // below the host's memory and the context
  addresses_.host_free(0);   // a gap of 100 MiB and a page
  EXPECT_EQ(below_top(32_MiB), 32_MiB);
  EXPECT_EQ(below_top(32_MiB), 64_MiB);
  // 36 MiB and a page are left; a chunk of 32 needs 64 less a page.
  EXPECT_EQ(below_top(32_MiB), bottom + 32_MiB);
  addresses_.host_free(1);  // now 336 MiB and two pages
  EXPECT_EQ(below_top(32_MiB), 96_MiB);
}

TEST_F(AmongHostMemory, TheContextTakesAHoleThatHoldsIt) {
  addresses_.host_allocate(2, 9_GiB);
  addresses_.host_free(2);
  addresses_.host_allocate(3, 9_GiB);  // as before, with a hole of 9 GiB above
  addresses_.host_allocate(4, 1_GiB);
  addresses_.host_free(3);
  // 8256 MiB of reservation leave 960 MiB for the rest: 37, 96 and 416 MiB, and then this.
  EXPECT_LT(below_top(32_MiB), 9_GiB + 401_MiB);
}

// What the driver takes for itself; distances below the end of the chunk of 96 MiB (see
// ModelledChunks): its last 24 MiB are free, and the chunk of 416 MiB with local memory follows.
class BesideTheDriver : public ::testing::Test {
 protected:
  Bytes below_top(Bytes size) { return kTop - addresses_.acquire(size).value() - 8352_MiB; }
  ModelledAddresses addresses_{kTop, Address{0x302000000}};
};

TEST_F(BesideTheDriver, MoreLocalMemoryLeavesAHoleAbove) {
  EXPECT_EQ(below_top(40_MiB), 576_MiB);  // 96 + 416 + 64
  // 1792 bytes for 144 x 2048 threads: 504 MiB, in a chunk of 512 below all that, [-1088, -576).
  addresses_.local_memory(1792_B);
  EXPECT_EQ(below_top(8_MiB), 584_MiB);   // its end
  EXPECT_EQ(below_top(40_MiB), 160_MiB);  // 96 + 64: where local memory was
  addresses_.local_memory(1000_B);        // no more than there is
  EXPECT_EQ(below_top(40_MiB), 224_MiB);
}

TEST_F(BesideTheDriver, MoreLocalMemoryLeavesAHoleInItsChunkIfThatIsShared) {
  EXPECT_EQ(below_top(2_MiB), 98_MiB);  // the last 2 of 416
  addresses_.local_memory(1792_B);
  EXPECT_EQ(below_top(40_MiB), 512_MiB);  // 414 MiB, from the lowest on
  EXPECT_EQ(below_top(40_MiB), 472_MiB);
}

TEST_F(BesideTheDriver, WhatItTakesIsNotThereForOthers) {
  addresses_.driver_memory(10_MiB);  // of the 24 that are free
  EXPECT_EQ(below_top(20_MiB), 544_MiB);
  EXPECT_EQ(below_top(14_MiB), 14_MiB);
  addresses_.driver_memory(Bytes{std::int64_t{1} << 47});  // no card has that: nothing happens
  EXPECT_EQ(below_top(20_MiB), 576_MiB);
}

/// Writes down what it is told.
class Told final : public AddressSource {
 public:
  std::string text{};
  std::optional<Address> acquire(Bytes size) override { return addresses_.acquire(size); }
  void release(Address address, Bytes size) override { addresses_.release(address, size); }
  std::optional<Address> reserve(Bytes size) override { return addresses_.reserve(size); }
  void unreserve(Address address, Bytes size) override { addresses_.unreserve(address, size); }
  void host_allocate(std::uint32_t buffer, Bytes size) override {
    text += "+" + std::to_string(buffer) + ":" + std::to_string(size.count()) + " ";
  }
  void host_free(std::uint32_t buffer) override { text += "-" + std::to_string(buffer) + " "; }
  void driver_memory(Bytes size) override { text += "d" + std::to_string(size.count()) + " "; }
  void local_memory(Bytes size) override { text += "l" + std::to_string(size.count()) + " "; }

 private:
  ModelledAddresses addresses_{};
};

TEST(Replay, TellsTheDeviceWhatElseTakesAddressSpace) {
  Trace trace;
  trace.buffer_slots = 2;
  trace.ops = {{.value = 100, .id = 1, .kind = OpKind::host_allocate},
               {.value = 512, .id = 0, .kind = OpKind::allocate},
               {.id = 1, .kind = OpKind::host_free},
               {.value = 1792, .kind = OpKind::local_memory},
               {.value = 4096, .kind = OpKind::driver_memory}};
  Told told;
  HeldStreams streams;
  SimulatedDevice device{{.spec = {.name = "test",
                                   .total = 1_GiB,
                                   .granularity = 2_MiB,
                                   .compute_major = 9,
                                   .compute_minor = 0},
                          .addresses = &told}};
  const auto policy = std::move(make_policy("pytorch", device, streams, {})).value();
  const ReplayReport report = replay(trace, *policy, device);
  EXPECT_EQ(told.text, "+1:100 -1 l1792 d4096 ");
  EXPECT_EQ(report.program_ops, 1);
  EXPECT_EQ(device.free_memory(), 1_GiB - 2_MiB);  // they cost no capacity
}

}  // namespace
}  // namespace peakcast
