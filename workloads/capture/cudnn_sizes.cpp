#include "workloads/capture/cudnn_sizes.hpp"

#include <algorithm>

namespace peakcast::capture::cudnn {
namespace {

constexpr std::int64_t kAlign = 32;
constexpr std::int64_t kHead = 256;
/// A matrix library's workspace, one for each layer and direction.
constexpr std::int64_t kProducts = std::int64_t{8} << 20;
/// The gates of at most this many steps are kept at a time.
constexpr std::int64_t kSteps = 256;

constexpr int kLstm = 2;
constexpr int kGru = 3;

constexpr std::int64_t up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

std::int64_t directions(const RecurrentShape& shape) { return shape.bidirectional ? 2 : 1; }
std::int64_t output(const RecurrentShape& shape) {
  return shape.projection > 0 ? shape.projection : shape.hidden;
}

/// Bytes of all matrices, without the bias vectors.
std::int64_t matrix_bytes(const RecurrentShape& shape) {
  std::int64_t elements = 0;
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    elements += gates(shape) * shape.hidden * (layer_input(shape, layer) + output(shape));
    elements += output(shape) != shape.hidden ? output(shape) * shape.hidden : 0;
  }
  return elements * directions(shape) * shape.element_bytes;
}

/// What both passes need beside their buffers.
std::int64_t common(const RecurrentShape& shape) {
  return matrix_bytes(shape) + shape.layers * directions(shape) * kProducts + kHead +
         up(8 * shape.batch, kAlign);
}

/// Forward: the gates of some steps, the layers' outputs, the state of each layer, a copy of the
/// input. In units of one step's hidden state.
std::int64_t forward_states(const RecurrentShape& shape) {
  if (shape.bidirectional) {
    const std::int64_t a_step = shape.cell == kLstm ? 14 : shape.cell == kGru ? 12 : 8;
    const std::int64_t a_layer = shape.cell == kLstm ? 24 : shape.cell == kGru ? 14 : 10;
    return a_step * shape.steps + a_layer * shape.layers;
  }
  const std::int64_t a_layer = shape.cell == kLstm ? 10 : shape.cell == kGru ? 5 : 3;
  return gates(shape) * std::min(shape.steps, kSteps) + (shape.dropout ? 2 : 1) * shape.steps +
         a_layer * shape.layers;
}

/// What a kernel that keeps its weights on the chip takes beside that.
std::int64_t persistent_states(const RecurrentShape& shape) {
  if (shape.cell == kLstm) {
    return 16 * shape.steps - 2 * shape.layers;
  }
  if (shape.cell == kGru) {
    return shape.training ? 16 * shape.steps + shape.layers : 12 * shape.steps - shape.layers;
  }
  return shape.training ? 13 * shape.steps + 3 * shape.layers : 4 * shape.steps + shape.layers;
}

/// Rows and channels that one of the norm's blocks sums.
struct NormTile {
  std::int64_t channels{};
  std::int64_t scale{1};  ///< rows are this many times as many
};
NormTile norm_tile(const NormShape& shape) {
  if (shape.channels % 4 == 0) {
    return {.channels = 64};
  }
  return shape.channels < 4 ? NormTile{.channels = 4, .scale = 4} : NormTile{.channels = 16};
}

bool has_no_workspace(const NormShape& shape) {
  constexpr int kSpatialPersistent = 2;
  return shape.mode != kSpatialPersistent || !shape.channels_last;
}

}  // namespace

int gates(const RecurrentShape& shape) {
  return shape.cell == kLstm ? 4 : shape.cell == kGru ? 3 : 1;
}

std::int64_t layer_input(const RecurrentShape& shape, std::int64_t layer) {
  return layer == 0 ? shape.input : output(shape) * directions(shape);
}

std::int64_t recurrent_weight_bytes(const RecurrentShape& shape) {
  const std::int64_t vectors = shape.bias == 0 ? 0 : shape.bias == 2 ? 2 : 1;
  return matrix_bytes(shape) + shape.layers * directions(shape) * vectors * gates(shape) *
                                   shape.hidden * shape.element_bytes;
}

std::int64_t recurrent_reserve_bytes(const RecurrentShape& shape) {
  if (!shape.training) {
    return 0;
  }
  const std::int64_t kept = shape.cell == kLstm ? 5 : shape.cell == kGru ? 6 : 1;
  const std::int64_t states = shape.steps * shape.batch * directions(shape) * shape.element_bytes;
  const std::int64_t between = shape.layers - 1;
  std::int64_t bytes = kHead + shape.layers * up(kept * shape.hidden * states, kAlign) +
                       up(between * output(shape) * states, kAlign);
  if (shape.dropout) {  // a bit for each value between two layers, for either direction
    bytes += between * directions(shape) *
             up((shape.steps * shape.batch * output(shape) * directions(shape) + 7) / 8, kAlign);
  }
  return bytes;
}

RecurrentWorkspace recurrent_workspace(const RecurrentShape& shape) {
  const std::int64_t state = shape.batch * shape.hidden * shape.element_bytes;
  const std::int64_t inputs = shape.steps * shape.batch * shape.input * shape.element_bytes;
  const bool plain = output(shape) == shape.hidden;
  std::int64_t bytes = common(shape) + forward_states(shape) * state + inputs;
  if (shape.algorithm != 0) {
    // Beside a forward pass as for no dropout when it trains.
    RecurrentShape without = shape;
    without.dropout = shape.dropout && (shape.cell == kLstm || !shape.training);
    bytes = common(shape) + (forward_states(without) + persistent_states(shape)) * state + inputs;
    return {.bytes = bytes, .exact = false};
  }
  if (!shape.training) {
    return {.bytes = bytes, .exact = plain};
  }
  // The gradient's pass: known for one direction, and one layer or dropout between them.
  const std::int64_t a_layer = shape.cell == kLstm ? 11 : 5;
  const bool known = !shape.bidirectional && (shape.layers == 1 || shape.dropout);
  if (!known) {
    return {.bytes = bytes,
            .exact = plain && shape.cell == kLstm && !shape.bidirectional &&
                     shape.input <= shape.hidden};
  }
  const std::int64_t backward =
      common(shape) + (3 * shape.steps + a_layer * shape.layers) * state + 3 * inputs;
  return {.bytes = std::max(bytes, backward), .exact = plain && shape.cell == kLstm};
}

std::int64_t norm_forward_workspace(const NormShape& shape, std::int64_t multiprocessors) {
  if (has_no_workspace(shape)) {
    return 0;
  }
  const NormTile tile = norm_tile(shape);
  const std::int64_t rows = (shape.element_bytes == 4 ? 64 : 160) * tile.scale;
  const std::int64_t tiles = (shape.rows + rows - 1) / rows;
  const std::int64_t groups = (shape.channels + tile.channels - 1) / tile.channels;
  // Mean, deviation and a counter for each tile.
  return 16 + 8 * multiprocessors + groups * (4 + (8 * tile.channels + 4) * tiles);
}

std::int64_t norm_backward_workspace(const NormShape& shape, std::int64_t multiprocessors) {
  if (has_no_workspace(shape)) {
    return 0;
  }
  const NormTile tile = norm_tile(shape);
  const std::int64_t rows = 96 * tile.scale;
  const std::int64_t tiles = (shape.rows + rows - 1) / rows;
  const std::int64_t groups = (shape.channels + tile.channels - 1) / tile.channels;
  return 8 * multiprocessors + groups * (4 + 8 * tile.channels * tiles);
}

}  // namespace peakcast::capture::cudnn
