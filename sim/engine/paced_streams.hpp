#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/core/slots.hpp"
#include "sim/device/streams.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// How far the card was while a program was recorded, as far as a recording can tell, which has the
/// host's times and no kernels: within an iteration the card works off at an even pace what the
/// host gives it, and is done where the next iteration begins. What the host did t after the
/// iteration's mark has ended t x whole / issued after it: `whole` to the next mark, `issued` to
/// the last allocation or free before that. A host that waits for the card at the end of each step
/// shows in that ratio how far ahead it was. Without times or marks all has ended at once.
///
/// For policies that need time; record: O(1).
class PacedStreams final : public Streams {
 public:
  /// `trace` outlives this.
  explicit PacedStreams(const Trace& trace);
  /// The host is at this op.
  void at(std::size_t op_index);

  [[nodiscard]] EventId record(StreamId stream) override;
  [[nodiscard]] bool completed(EventId event) override { return ends_us_[event.value] <= now_us_; }
  void wait(EventId event) override { ends_us_[event.value] = now_us_; }
  void synchronize(StreamId /*stream*/) override { synchronize_device(); }
  void synchronize_device() override;
  void forget(EventId event) override { ends_us_.give_back(event.value); }

 private:
  struct Iteration {
    std::size_t first_op{};
    std::int64_t begins_us{};
    std::int64_t whole_us{};
    std::int64_t issued_us{};
  };
  const Trace& trace_;
  std::vector<Iteration> iterations_{};  // in order; empty without times or marks
  std::size_t iteration_{};              // the next one
  std::int64_t now_us_{};
  Slots<std::int64_t> ends_us_{};  // by event
};

}  // namespace peakcast
