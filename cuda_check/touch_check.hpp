#pragma once

#include <map>
#include <vector>

#include "cuda_check/toucher.hpp"
#include "sim/alloc/allocator_decorator.hpp"

namespace peakcast {

struct TouchOptions {
  /// Every so many frees the owner's stream is made busy before it verifies, so that a block given
  /// to another stream without waiting is written while its owner still reads it. 0: never.
  std::int64_t pause_every{64};
};

/// An Allocator around an Allocator: every block is filled with a pattern of its own when it is
/// handed out, and checked when it is dropped; a stream that was recorded as a user checks it late.
/// Two blocks that overlap, or one that is handed out while a stream still reads it, leave a
/// pattern that is not the block's own.
/// Borrows both; they outlive it. The sink is set on the inner allocator, not here.
class TouchCheck final : public AllocatorDecorator {
 public:
  TouchCheck(Allocator& inner, Toucher& toucher, const TouchOptions& options = {});

  [[nodiscard]] AllocOutcome allocate(const AllocRequest& request) override;
  void deallocate(BlockId block) override;
  void record_stream(BlockId block, StreamId stream) override;

  /// Verifies every block that is still live, waits, and says what was found in the whole run.
  [[nodiscard]] TouchReport finish();
  /// Drops every block that is still live and has the policy return what it can.
  void clear();

 private:
  struct Live {
    TouchedBlock block{};
    StreamId stream{};
    bool live{};
  };
  Toucher* toucher_;
  TouchOptions options_;
  std::vector<Live> live_{};  ///< by BlockId
  std::uint64_t next_key_{1};
  std::int64_t frees_{};
};

/// Bugs that the touch check must find; used to test the check, never the policies.
enum class PlantedBug : std::uint8_t {
  none,
  overlap,      ///< now and then a block is handed out that lies in a live one
  early_reuse,  ///< other streams' uses are forgotten
};

/// An Allocator around an Allocator with a bug planted in it. `inner` outlives it.
class BuggyAllocator final : public AllocatorDecorator {
 public:
  BuggyAllocator(Allocator& inner, PlantedBug bug) : AllocatorDecorator{inner}, bug_{bug} {}

  [[nodiscard]] AllocOutcome allocate(const AllocRequest& request) override;
  void deallocate(BlockId block) override;
  void record_stream(BlockId block, StreamId stream) override;

 private:
  /// Every so many allocations one is misplaced: rare enough to be a bug that a run survives.
  static constexpr std::int64_t kEvery = 97;
  PlantedBug bug_;
  std::int64_t allocations_{};
  std::map<BlockId, Placement> live_{};
};

}  // namespace peakcast
