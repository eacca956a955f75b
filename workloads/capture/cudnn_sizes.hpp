#pragma once

#include <cstdint>

/// What cuDNN's older functions answer about memory, as rules read off measurements. No library is
/// asked. Measured: cuDNN 9.19.0 with a handle on an H200, driver 580.159, 2026-11-29, by ctypes:
/// 10 400 recurrent layers, 416 batch norms.
namespace peakcast::capture::cudnn {

/// Bytes of cudnnDropoutGetStatesSize: a generator's state for each of a card's threads.
[[nodiscard]] constexpr std::int64_t dropout_state_bytes(std::int64_t multiprocessors) {
  constexpr std::int64_t kThreads = 1024;  // a multiprocessor's; 48 bytes each
  return multiprocessors * kThreads * 48;
}

struct RecurrentShape {
  int algorithm{};  ///< cudnnRNNAlgo_t: 0 standard, 1 persistent static
  int cell{};       ///< cudnnRNNMode_t: 0 relu, 1 tanh, 2 LSTM, 3 GRU
  int bias{2};      ///< cudnnRNNBiasMode_t: vectors a gate has; 3 is one, too
  bool bidirectional{};
  bool dropout{};  ///< its probability is more than 0
  bool training{};
  std::int64_t element_bytes{4};
  std::int64_t input{};
  std::int64_t hidden{};
  std::int64_t projection{};  ///< of the output; `hidden` for none
  std::int64_t layers{1};
  std::int64_t steps{};  ///< of the longest sequence
  std::int64_t batch{};
};

[[nodiscard]] int gates(const RecurrentShape& shape);
/// The parameters of one layer and direction: matrices and vectors.
[[nodiscard]] std::int64_t layer_input(const RecurrentShape& shape, std::int64_t layer);
[[nodiscard]] std::int64_t recurrent_weight_bytes(const RecurrentShape& shape);
[[nodiscard]] std::int64_t recurrent_reserve_bytes(const RecurrentShape& shape);

struct RecurrentWorkspace {
  std::int64_t bytes{};
  bool exact{};  ///< false: a shape of which only the forward pass is known
};
[[nodiscard]] RecurrentWorkspace recurrent_workspace(const RecurrentShape& shape);

struct NormShape {
  int mode{};  ///< cudnnBatchNormMode_t: 2 spatial persistent
  bool channels_last{};
  std::int64_t element_bytes{4};
  std::int64_t channels{};
  std::int64_t rows{};  ///< values a channel: batch times pixels
};
/// Workspaces of the training pass and its gradient; no reserve is needed without an activation.
[[nodiscard]] std::int64_t norm_forward_workspace(const NormShape& shape,
                                                  std::int64_t multiprocessors);
[[nodiscard]] std::int64_t norm_backward_workspace(const NormShape& shape,
                                                   std::int64_t multiprocessors);

}  // namespace peakcast::capture::cudnn
