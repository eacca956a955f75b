#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/app/command_line.hpp"
#include "sim/app/run_flags.hpp"
#include "sim/core/units.hpp"
#include "sim/report/json.hpp"

namespace peakcast::app {

/// A DataLoader, by the names of its arguments.
struct Loader {
  std::int64_t workers{};
  std::int64_t prefetch{2};
  bool pins{};

  /// Batches at once in the loader and in the loop, when the loop is slower than the loader.
  [[nodiscard]] std::int64_t batches() const;
};

/// --loader-workers, --prefetch-factor, --pin-memory.
class LoaderFlags {
 public:
  explicit LoaderFlags(CommandLine& line);
  LoaderFlags(const LoaderFlags&) = delete;
  LoaderFlags& operator=(const LoaderFlags&) = delete;
  /// What was said; null when nothing. Throws Fault: flags that contradict one another.
  [[nodiscard]] std::optional<Loader> loader() const;

 private:
  const CommandLine& line_;
  Loader loader_{};
};

/// What a training takes of its host, without the dataset and what the program itself keeps. Bytes
/// of one process, where not said otherwise.
struct HostMemory {
  Loader loader{};
  std::int64_t processes{1};  ///< on one node: one a card
  Bytes shared{};             ///< in /dev/shm at the most
  Bytes pinned{};
  Bytes model{};             ///< while it is built
  Bytes checkpoint{};        ///< what is saved: parameters and the optimizer's state
  Bytes torch_save{};        ///< host copies while torch.save writes it
  Bytes safetensors_save{};  ///< the same of save_pretrained, of the parameters alone
  Bytes process{};           ///< Python, PyTorch and the CUDA context
  Bytes workers{};           ///< what the loader's processes have of their own

  [[nodiscard]] Bytes node_shared() const { return processes * shared; }
  [[nodiscard]] Bytes node_memory() const;
};

/// /dev/shm, for one DataLoader whose batches are `tensors`.
[[nodiscard]] Bytes loader_shared(const Loader& loader, const std::vector<Bytes>& tensors);
[[nodiscard]] Bytes loader_pinned(const Loader& loader, const std::vector<Bytes>& tensors);

[[nodiscard]] HostMemory host_memory(const Run& run, const Loader& loader);

[[nodiscard]] std::string host_text(const HostMemory& host);
[[nodiscard]] Json host_json(const HostMemory& host);

}  // namespace peakcast::app
