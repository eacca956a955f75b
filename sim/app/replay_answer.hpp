#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "allocators/policy.hpp"
#include "sim/app/answer.hpp"
#include "sim/app/out_of_memory.hpp"
#include "sim/app/verification.hpp"
#include "sim/core/memory_limit.hpp"
#include "sim/device/device.hpp"
#include "sim/engine/replay.hpp"
#include "sim/engine/run_log.hpp"
#include "sim/engine/waste.hpp"
#include "sim/report/page.hpp"
#include "sim/trace/read_trace.hpp"

namespace peakcast::app {

enum class Addresses : std::uint8_t { recorded, modelled };

/// `replay`: what does a policy do with this trace?
struct ReplayQuestion {
  std::string trace{};  ///< a file; "-" is stdin
  PolicyName policy{.base = "pytorch"};
  bool policy_given{};  ///< false: what the settings ask for, of the recording's own release
  std::optional<std::string> alloc_conf{};  ///< none: what was recorded; likewise the next three
  std::optional<std::string> gpu{};         ///< whose memory the card has
  std::optional<MemoryLimit> limit{};
  std::optional<Bytes> capacity{};
  Addresses addresses{};
  bool addresses_given{};
  Bytes outside{};                       ///< of the card's memory, beside the allocator's
  std::optional<std::int64_t> device{};  ///< of a snapshot with several
  std::optional<Bytes> max_memory{};     ///< for reading; none: as the file's size allows
  bool keep_events{};
  bool keep_run{};
  bool keep_page{};
  bool verify{};
  std::int64_t repeat{};  ///< the last iteration, so many times more
};

struct ReplayAnswer {
  ReplayQuestion question{};
  LoadedTrace loaded{};
  // What was replayed, once recording and flags are put together.
  PolicyName policy{};
  std::string alloc_conf{};
  std::optional<Bytes> limit{};
  DeviceSpec device{};
  bool recorded_addresses{};

  ReplayReport report{};
  std::optional<OomAnswer> oom{};
  /// Where the policy first asked the device for something else than the recorded one did, and how
  /// often the recorded card refused what nothing in the trace explains.
  struct AddressUse {
    std::optional<std::size_t> parted_at_event{};
    std::size_t recorded_refusals{};
  };
  std::optional<AddressUse> address_use{};  ///< with recorded addresses
  std::optional<Verification> verification{};
  Recording events{};  ///< what the policy did, when they are kept
  RecordedRun run{};   ///< the same as a recording of its own, when it is kept; see recorded_run()
  PageRun page{};      ///< what can be drawn of it, when it is kept
  std::vector<std::string> warnings{};

  /// With a verification: it holds (what the recorded run ran out of, this one must too). Else:
  /// nothing ran out of memory.
  [[nodiscard]] bool passed() const { return verification ? verification->passed() : !oom; }
};

/// Throws Fault for what no card has.
[[nodiscard]] Bytes checked_capacity(Bytes capacity);

/// Throws Fault: a trace that cannot be read, a policy that cannot be made.
[[nodiscard]] ReplayAnswer answer(const ReplayQuestion& question);
/// The same for a trace that is there already; question.trace is its name.
[[nodiscard]] ReplayAnswer answer(const ReplayQuestion& question, LoadedTrace loaded);
/// Its two halves, for who replays a trace several times: what `question` asks for, put together
/// with the recording; and a replay of that, with `watch` (may be empty) around the policy.
[[nodiscard]] ReplayAnswer settled(const ReplayQuestion& question, LoadedTrace loaded);
[[nodiscard]] ReplayAnswer settled(const ReplayQuestion& question);
void replay_into(ReplayAnswer& found, const PolicyWatch& watch = {});

[[nodiscard]] const Writers<ReplayAnswer>& replay_writers();

}  // namespace peakcast::app
