#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/alloc/allocator.hpp"

namespace peakcast {

/// An Allocator around an Allocator that it does not trust. It keeps every live block as an
/// interval and looks at each placement: big enough, over no live block, under an id that is not in
/// use. At the first fault the policy is not called any more: fault() tells the request and the
/// overlap, later requests fail as out of memory, and frees do nothing. O(log live) per call.
class Referee final : public Allocator {
 public:
  explicit Referee(std::unique_ptr<Allocator> policy) : policy_{std::move(policy)} {}

  [[nodiscard]] std::string_view name() const override { return policy_->name(); }
  [[nodiscard]] AllocOutcome allocate(const AllocRequest& request) override;
  void deallocate(BlockId block) override;
  void record_stream(BlockId block, StreamId stream) override;
  void empty_cache() override;
  void poll() override;
  void begin_iteration(std::int64_t index) override;
  [[nodiscard]] const Statistics& statistics() const override { return policy_->statistics(); }
  [[nodiscard]] HeapView view() const override { return policy_->view(); }
  [[nodiscard]] Transfers transfers() const override { return policy_->transfers(); }
  [[nodiscard]] std::optional<std::string> fault() const override { return fault_; }
  void set_sink(EventSink* sink) override { policy_->set_sink(sink); }

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
