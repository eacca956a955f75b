#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sim/alloc/allocator_decorator.hpp"

namespace peakcast {

/// An Allocator around an Allocator that it does not trust. It keeps every live block as an
/// interval and looks at each placement: big enough, over no live block, under an id that is not in
/// use. At the first fault the policy is not called any more: fault() tells the request and the
/// overlap, later requests fail as out of memory, and frees do nothing. O(log live) per call.
class Referee final : public AllocatorDecorator {
 public:
  explicit Referee(std::unique_ptr<Allocator> policy)
      : AllocatorDecorator{*policy}, policy_{std::move(policy)} {}

  [[nodiscard]] AllocOutcome allocate(const AllocRequest& request) override;
  void deallocate(BlockId block) override;
  void record_stream(BlockId block, StreamId stream) override;
  void empty_cache() override;
  void poll() override;
  void begin_iteration(std::int64_t index) override;
  [[nodiscard]] std::optional<std::string> fault() const override { return fault_; }

 private:
  struct Interval {
    Address end{};
    std::uint32_t block{};
    std::int64_t request{};
  };
  /// The policy's own fault, if it has found one, or ours.
  bool stopped();
  [[nodiscard]] std::optional<std::string> judge(const AllocRequest& request,
                                                 const Placement& placement) const;

  std::unique_ptr<Allocator> policy_;
  std::map<Address, Interval> live_{};
  std::map<std::uint32_t, Address> by_block_{};
  std::int64_t requests_{};
  std::optional<std::string> fault_{};
};

}  // namespace peakcast
