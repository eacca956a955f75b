#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sim/device/gpu_description.hpp"

namespace peakcast::capture::cudnn {

/// One engine and its settings, as a heuristic ranks them.
struct EngineConfig {
  std::int64_t id{};  ///< the planner's number for it
  std::int64_t engine{};
  std::vector<int> numerical_notes{};
  std::vector<int> behaviour_notes{};
  std::int32_t shared_bytes{};
  std::vector<std::pair<int, std::int64_t>> knobs{};
};

/// cuDNN's JSON of a card's properties (CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION), from what the
/// description says and, for the limits of a compute capability, NVIDIA's programming guide.
[[nodiscard]] std::string device_json(const GpuDescription& gpu);

/// The directory of the libcudnn.so.9 that this process would use without the emulated card: beside
/// PyTorch's libraries, as PyPI installs it; the environment's PEAKCAST_CUDNN before that. "":
/// none.
[[nodiscard]] std::string library_directory();

/// A cuDNN without a card, in a process of its own (cudnn_planner.cpp), started by the first
/// question. One question at a time: the caller serialises. A process that was forked starts its
/// own.
class Client {
 public:
  explicit Client(std::string device) : device_{std::move(device)} {}
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  /// cudnnGetVersion() of the library; empty where there is none, or it cannot be asked.
  [[nodiscard]] std::optional<std::int64_t> version();
  /// Sends lines that make a graph; cuDNN's status. Precondition for all below: version() is there.
  [[nodiscard]] int send(const std::string& lines);
  /// The engines for a graph in the heuristic's order; `status` is cuDNN's.
  [[nodiscard]] std::vector<EngineConfig> heuristics(std::int64_t graph, int mode,
                                                     int multiprocessors, int& status);
  /// The number of a configuration made by hand.
  [[nodiscard]] std::optional<std::int64_t> configuration(const std::string& what, int& status);
  /// The workspace of a plan in bytes.
  [[nodiscard]] std::optional<std::int64_t> workspace(std::int64_t config, int& status);

 private:
  void start();
  void stop();
  [[nodiscard]] std::optional<std::string> ask(std::string_view lines);

  std::string device_;
  std::optional<std::int64_t> version_{};
  int owner_{};  ///< the process that started it
  int socket_{-1};
  std::string received_{};
};

}  // namespace peakcast::capture::cudnn
