#include "sim/alloc/referee.hpp"

#include <iterator>

#include <fmt/format.h>

namespace peakcast {

bool Referee::stopped() {
  if (!fault_) {
    if (const std::optional<std::string> own = policy_->fault()) {
      fault_ = fmt::format("policy '{}', at request {}: {}", name(), requests_, *own);
    }
  }
  return fault_.has_value();
}

std::optional<std::string> Referee::judge(const AllocRequest& request,
                                          const Placement& placement) const {
  const Address end = placement.address + placement.size;
  const auto head = [&] {
    return fmt::format(
        "policy '{}', at request {} ({} bytes on stream {}): the block [{:#x}, {:#x})", name(),
        requests_, request.size.count(), request.stream.value, placement.address.value(),
        end.value());
  };
  if (placement.size < request.size) {
    return head() + " is smaller than the request";
  }
  if (end < placement.address) {
    return head() + " wraps around the address space";
  }
  if (by_block_.contains(placement.block.value)) {
    return head() + fmt::format(" has the id {} of a live block", placement.block.value);
  }
  auto other = live_.lower_bound(placement.address);
  if (other == live_.end() || other->first >= end) {
    if (other == live_.begin() || std::prev(other)->second.end <= placement.address) {
      return std::nullopt;
    }
    --other;
  }
  return head() + fmt::format(" overlaps [{:#x}, {:#x}), which request {} holds",
                              other->first.value(), other->second.end.value(),
                              other->second.request);
}

AllocOutcome Referee::allocate(const AllocRequest& request) {
  const OutOfMemory refused{.requested = request.size, .rounded = request.size};
  if (stopped()) {
    return refused;
  }
  ++requests_;
  const AllocOutcome outcome = policy_->allocate(request);
  if (stopped()) {
    return refused;
  }
  const auto* placement = std::get_if<Placement>(&outcome);
  if (placement == nullptr) {
    return outcome;
  }
  fault_ = judge(request, *placement);
  if (fault_) {
    return refused;
  }
  live_.emplace(placement->address,
                Interval{placement->address + placement->size, placement->block.value, requests_});
  by_block_.emplace(placement->block.value, placement->address);
  return outcome;
}

void Referee::deallocate(BlockId block) {
  if (stopped()) {
    return;
  }
  const auto found = by_block_.find(block.value);
  check(found != by_block_.end(), "deallocate of a block that is not live");
  live_.erase(found->second);
  by_block_.erase(found);
  policy_->deallocate(block);
  static_cast<void>(stopped());
}

void Referee::record_stream(BlockId block, StreamId stream) {
  if (!stopped()) {
    policy_->record_stream(block, stream);
  }
}

void Referee::empty_cache() {
  if (!stopped()) {
    policy_->empty_cache();
    static_cast<void>(stopped());
  }
}

void Referee::poll() {
  if (!stopped()) {
    policy_->poll();
    static_cast<void>(stopped());
  }
}

void Referee::begin_iteration(std::int64_t index) {
  if (!stopped()) {
    policy_->begin_iteration(index);
    static_cast<void>(stopped());
  }
}

}  // namespace peakcast
