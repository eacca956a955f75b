#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sim/alloc/allocator.hpp"
#include "sim/core/allocator_event.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast::app {

/// Where replay and recording first differ.
struct Mismatch {
  std::size_t event{};  ///< index into Recording::events; its size when the recording ended first
  std::optional<AllocatorEvent> recorded{};
  std::optional<AllocatorEvent> replayed{};
};

/// A final statistic that came out otherwise.
struct Difference {
  std::string name{};  ///< PyTorch's, as in "reserved_bytes.all.peak"
  std::int64_t recorded{};
  std::int64_t replayed{};
};

/// How a replay compares with what the trace itself recorded.
struct Verification {
  std::int64_t events{};  ///< recorded
  std::int64_t matched{};
  std::optional<Mismatch> mismatch{};
  std::vector<Difference> differences{};
  std::int64_t segments_apart{};  ///< of the final snapshots, on either side
  bool with_addresses{};          ///< addresses were compared too

  [[nodiscard]] bool passed() const {
    return !mismatch && differences.empty() && segments_apart == 0;
  }
};

/// Hears what a policy does and compares it with a recording.
class Listener final : public EventSink {
 public:
  /// Borrows the recording. `next` (may be null; borrowed) hears of everything too.
  Listener(const Recording& recording, bool with_addresses, EventSink* next);

  void on_event(const AllocatorEvent& event) override;

  /// Of a run that has ended, given what the policy's books and heap say then.
  [[nodiscard]] Verification verification(const Allocator& allocator) const;

 private:
  [[nodiscard]] std::size_t after_snapshots(std::size_t event) const;
  [[nodiscard]] bool same(const AllocatorEvent& a, const AllocatorEvent& b) const;

  const Recording& recording_;
  bool with_addresses_;
  EventSink* further_;
  std::size_t next_{};
  std::int64_t matched_{};
  std::optional<Mismatch> mismatch_{};
};

}  // namespace peakcast::app
