#pragma once

#include <map>
#include <vector>

#include "cuda_check/toucher.hpp"
#include "sim/alloc/allocator.hpp"

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
class TouchCheck final : public Allocator {
 public:
  TouchCheck(Allocator& inner, Toucher& toucher, const TouchOptions& options = {});

  [[nodiscard]] std::string_view name() const override { return inner_->name(); }
  [[nodiscard]] AllocOutcome allocate(const AllocRequest& request) override;
  void deallocate(BlockId block) override;
  void record_stream(BlockId block, StreamId stream) override;
  void empty_cache() override { inner_->empty_cache(); }
  void poll() override { inner_->poll(); }
  void begin_iteration(std::int64_t index) override { inner_->begin_iteration(index); }
  [[nodiscard]] const Statistics& statistics() const override { return inner_->statistics(); }
  [[nodiscard]] HeapView view() const override { return inner_->view(); }
  [[nodiscard]] std::optional<std::string> fault() const override { return inner_->fault(); }

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
  Allocator* inner_;
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
class BuggyAllocator final : public Allocator {
 public:
  BuggyAllocator(Allocator& inner, PlantedBug bug) : inner_{&inner}, bug_{bug} {}

  [[nodiscard]] std::string_view name() const override { return inner_->name(); }
  [[nodiscard]] AllocOutcome allocate(const AllocRequest& request) override;
  void deallocate(BlockId block) override;
  void record_stream(BlockId block, StreamId stream) override;
  void empty_cache() override { inner_->empty_cache(); }
  void poll() override { inner_->poll(); }
  void begin_iteration(std::int64_t index) override { inner_->begin_iteration(index); }
  [[nodiscard]] const Statistics& statistics() const override { return inner_->statistics(); }
  [[nodiscard]] HeapView view() const override { return inner_->view(); }
  [[nodiscard]] std::optional<std::string> fault() const override { return inner_->fault(); }

 private:
  /// Every so many allocations one is misplaced: rare enough to be a bug that a run survives.
  static constexpr std::int64_t kEvery = 97;
  Allocator* inner_;
  PlantedBug bug_;
  std::int64_t allocations_{};
  std::map<BlockId, Placement> live_{};
};

}  // namespace peakcast
