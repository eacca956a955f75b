#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <gtest/gtest.h>

#include "allocators/pytorch/caching_allocator.hpp"
#include "allocators/pytorch/settings.hpp"
#include "sim/device/simulated_device.hpp"
#include "tests/support/heap_text.hpp"
#include "tests/support/memory_stats.hpp"
#include "tests/support/naive_allocator.hpp"
#include "tests/support/scripted_streams.hpp"

namespace peakcast::support {

inline std::vector<std::int64_t> memory_stats(const NaiveAllocator& allocator) {
  return allocator.memory_stats();
}

/// How a bench is set up.
struct BenchSetup {
  std::string_view conf{};
  std::optional<Bytes> limit{};
  Bytes total{std::int64_t{80} << 30};
  std::string_view version{};
};

/// One allocator on one empty card with readable addresses, driven by names:
///   bench.alloc("a", 5_MiB); bench.free("a"); EXPECT_EQ(bench.heap(), "S0: [20M -]");
/// `A` is CachingAllocator or NaiveAllocator.
template <class A>
class PytorchBench {
 public:
  explicit PytorchBench(const BenchSetup& setup = {})
      : device_{{.spec = {.name = "bench",
                          .total = setup.total,
                          .granularity = Bytes{2 << 20},
                          .compute_major = 9},
                 .addresses = &addresses_}},
        version_{pytorch::find_version(setup.version).value()},
        allocator_{device_,
                   streams_,
                   {.version = version_,
                    .settings = pytorch::parse_settings(setup.conf, version_).value(),
                    .limit = setup.limit}} {
    allocator_.set_sink(&log_);
  }

  [[nodiscard]] A& allocator() { return allocator_; }
  [[nodiscard]] ScriptedStreams& streams() { return streams_; }
  [[nodiscard]] SimulatedDevice& device() { return device_; }

  /// Must succeed. Returns where the block lies: "S0+512".
  std::string alloc(const std::string& name, Bytes size, std::uint32_t stream = 0) {
    const AllocOutcome outcome = allocator_.allocate({.size = size, .stream = StreamId{stream}});
    const auto* placement = std::get_if<Placement>(&outcome);
    if (placement == nullptr) {
      ADD_FAILURE() << name << " ran out of memory";
      return "nowhere";
    }
    EXPECT_TRUE(live_.emplace(name, *placement).second) << name << " is live already";
    return NamedAddresses::name(placement->address);
  }
  /// Must run out of memory.
  OutOfMemory alloc_fails(Bytes size, std::uint32_t stream = 0) {
    const AllocOutcome outcome = allocator_.allocate({.size = size, .stream = StreamId{stream}});
    if (const auto* placement = std::get_if<Placement>(&outcome)) {
      ADD_FAILURE() << "succeeded at " << NamedAddresses::name(placement->address);
      return {};
    }
    return std::get<OutOfMemory>(outcome);
  }
  void free(const std::string& name) {
    const auto at = live_.find(name);
    ASSERT_NE(at, live_.end()) << name << " is not live";
    allocator_.deallocate(at->second.block);
    live_.erase(at);
  }
  template <class... Names>
  void free_all(const Names&... names) {
    (free(names), ...);
  }
  void record_stream(const std::string& name, std::uint32_t stream) {
    allocator_.record_stream(live_.at(name).block, StreamId{stream});
  }
  void empty_cache() { allocator_.empty_cache(); }
  /// A change of settings at run time.
  void configure(std::string_view conf) {
    allocator_.set_settings(pytorch::parse_settings(conf, version_).value());
  }

  [[nodiscard]] std::string heap() const { return heap_text(allocator_.view()); }
  /// What happened since the last call.
  [[nodiscard]] std::string events() { return log_.take_text(); }
  /// One figure of torch.cuda.memory_stats(), e.g. "reserved_bytes.all.peak".
  [[nodiscard]] std::int64_t stat(std::string_view name) const {
    const auto names = memory_stat_names();
    const auto at = std::find(names.begin(), names.end(), name);
    if (at == names.end()) {
      ADD_FAILURE() << "no figure " << name;
      return -1;
    }
    return memory_stats(allocator_).at(static_cast<std::size_t>(at - names.begin()));
  }
  /// The counters of the specification's tables: "AB 512 RB 2M ISB 2096640 IS 1 SEG 1".
  [[nodiscard]] std::string books() const {
    const auto bytes = [&](std::string_view name) { return short_size(Bytes{stat(name)}); };
    return "AB " + bytes("allocated_bytes.all.current") + " RB " +
           bytes("reserved_bytes.all.current") + " ISB " +
           bytes("inactive_split_bytes.all.current") + " IS " +
           std::to_string(stat("inactive_split.all.current")) + " SEG " +
           std::to_string(stat("segment.all.current"));
  }

 private:
  NamedAddresses addresses_{};
  ScriptedStreams streams_{};
  SimulatedDevice device_;
  pytorch::Version version_;
  A allocator_;
  EventLog log_{};
  std::map<std::string, Placement> live_{};
};

}  // namespace peakcast::support
