#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "allocators/policy.hpp"
#include "sim/app/command_line.hpp"
#include "sim/core/units.hpp"
#include "sim/device/gpu_description.hpp"
#include "workloads/model_config.hpp"
#include "workloads/run_spec.hpp"

namespace peakcast::app {

/// One training run on one card under one policy, checked and complete: what the run flags say.
struct Run {
  RunSpec spec{};
  ModelConfig model{};
  GpuDescription gpu{};  ///< --capacity is in spec.total already
  PolicyName policy{.base = "pytorch"};
  std::string alloc_conf{};
  std::optional<Bytes> limit{};
  std::int64_t host_speed{100};  ///< percent of the host that the recordings come from
  bool config_precision{};       ///< the precision is the one that the config names
};

/// The flags that describe a run, in one place for every command that takes them.
///
///     CommandLine line{{"predict", ...}};
///     RunFlags flags{line};
///     if (const auto status = line.parse(words)) { return *status; }
///     const Run run = flags.run();
class RunFlags {
 public:
  /// Declares them. `line` and this object outlive each other's use: neither may move.
  explicit RunFlags(CommandLine& line);
  RunFlags(const RunFlags&) = delete;
  RunFlags& operator=(const RunFlags&) = delete;

  /// Whether any run was described (for commands that take a trace instead).
  [[nodiscard]] bool given() const { return !spec_.model.empty(); }
  /// The checked run. Throws Fault: an unknown model or card, flags that contradict one another, a
  /// shape that the model cannot take. Precondition: parsed.
  [[nodiscard]] Run run();
  /// run(), for each card of --gpu ("all", or a list), the one with the least memory first.
  [[nodiscard]] std::vector<Run> runs();
  /// Whether --gpu asks about several cards, as "all" and a list do.
  [[nodiscard]] bool several_cards() const;
  /// The type that a config names is that of its run, unless --precision says otherwise.
  void take_config_precision(Precision precision);
  /// What was said, unchecked, but for batch and sequence.
  [[nodiscard]] const RunSpec& spec() const { return spec_; }
  /// What --policy lists, in its order.
  [[nodiscard]] std::vector<PolicyName> policies() const;
  /// Their one; `command` takes no more. Throws Fault.
  [[nodiscard]] PolicyName one_policy(std::string_view command) const;
  /// What was given of card and allocator, for commands that take a trace instead.
  [[nodiscard]] std::optional<MemoryLimit> limit() const { return limit_; }
  [[nodiscard]] std::optional<Bytes> capacity() const { return spec_.capacity; }
  [[nodiscard]] std::optional<std::string> alloc_conf() const;
  [[nodiscard]] std::optional<std::string> gpu() const;
  /// The part of the card that --limit says, in the echo's bytes.
  void settle_limit(Bytes total) { static_cast<void>(settled(limit_, total)); }

 private:
  void declare_model(CommandLine& line);
  void declare_training(CommandLine& line);
  void declare_finetuning(CommandLine& line);
  void declare_parallel(CommandLine& line);
  void declare_machine(CommandLine& line);
  [[nodiscard]] Run run_on(const std::string& gpu);
  void check_parallel() const;
  void check_finetuning() const;

  const CommandLine& line_;
  RunSpec spec_{};
  std::int64_t batch_{1};
  std::int64_t seq_{512};
  std::vector<std::string> overrides_{};
  std::string batches_{};
  std::string lora_targets_{"all-linear"};
  std::vector<std::string> policies_{};  ///< --policy as often as it was given
  std::string alloc_conf_{};
  std::optional<MemoryLimit> limit_{};
  std::int64_t host_speed_{100};
};

/// There is a trace and no run: flags that describe one are refused (Fault), and the echo leaves
/// them out. Card and allocator may be said, and what is the command's `own`.
void refuse_run(CommandLine& line, std::initializer_list<std::string_view> own);

/// What the model or 64 bits cannot take of `run`: positions beyond a learned table, tensors beyond
/// any card. Throws Fault. Callers that change a Run call it again.
void check_shapes(const Run& run);

}  // namespace peakcast::app
