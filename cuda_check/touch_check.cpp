#include "cuda_check/touch_check.hpp"

#include <cstddef>
#include <variant>

namespace peakcast {

TouchCheck::TouchCheck(Allocator& inner, Toucher& toucher, const TouchOptions& options)
    : AllocatorDecorator{inner}, toucher_{&toucher}, options_{options} {}

AllocOutcome TouchCheck::allocate(const AllocRequest& request) {
  AllocOutcome outcome = inner().allocate(request);
  if (const auto* placed = std::get_if<Placement>(&outcome)) {
    if (placed->block.value >= live_.size()) {
      live_.resize(static_cast<std::size_t>(placed->block.value) + 1);
    }
    Live& entry = live_[placed->block.value];
    check(!entry.live, "a live block's id was handed out again");
    entry = Live{{placed->address, placed->size, next_key_++}, request.stream, true};
    toucher_->fill(entry.block, entry.stream);
  }
  return outcome;
}

void TouchCheck::deallocate(BlockId block) {
  Live& entry = live_.at(block.value);
  check(entry.live, "a block that is not live was dropped");
  entry.live = false;
  ++frees_;
  if (options_.pause_every > 0 && frees_ % options_.pause_every == 0) {
    toucher_->verify_after_pause(entry.block, entry.stream);
  } else {
    toucher_->verify(entry.block, entry.stream);
  }
  inner().deallocate(block);
}

void TouchCheck::record_stream(BlockId block, StreamId stream) {
  const Live& entry = live_.at(block.value);
  check(entry.live, "a stream was recorded on a block that is not live");
  if (stream != entry.stream) {
    toucher_->verify_late(entry.block, entry.stream, stream);
  }
  inner().record_stream(block, stream);
}

TouchReport TouchCheck::finish() {
  for (const Live& entry : live_) {
    if (entry.live) {
      toucher_->verify(entry.block, entry.stream);
    }
  }
  return toucher_->finish();
}

void TouchCheck::clear() {
  for (std::uint32_t id = 0; id < live_.size(); ++id) {
    if (live_[id].live) {
      live_[id].live = false;
      inner().deallocate(BlockId{id});
    }
  }
  inner().empty_cache();
}

AllocOutcome BuggyAllocator::allocate(const AllocRequest& request) {
  AllocOutcome outcome = inner().allocate(request);
  auto* placed = std::get_if<Placement>(&outcome);
  if (placed == nullptr || bug_ != PlantedBug::overlap) {
    return outcome;
  }
  if (++allocations_ % kEvery == 0) {
    for (const auto& [id, other] : live_) {
      if (other.size >= placed->size) {
        placed->address = other.address;
        break;
      }
    }
  }
  live_.insert_or_assign(placed->block, *placed);
  return outcome;
}

void BuggyAllocator::deallocate(BlockId block) {
  live_.erase(block);
  inner().deallocate(block);
}

void BuggyAllocator::record_stream(BlockId block, StreamId stream) {
  if (bug_ != PlantedBug::early_reuse) {
    inner().record_stream(block, stream);
  }
}

}  // namespace peakcast
