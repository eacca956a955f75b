#include "workloads/torch/convolution_workspaces.hpp"

#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/core/check.hpp"
#include "sim/core/embedded.hpp"

namespace peakcast::torch {
namespace {

/// From `first_batch` on, `per_image` bytes for each image and `fixed` for all.
struct Piece {
  std::int64_t first_batch{};
  std::int64_t per_image{};
  std::int64_t fixed{};
};

struct Row {
  std::int64_t out_channels{};
  std::int64_t patch{};
  std::int64_t image{};
  Dtype dtype{};
  std::vector<Piece> forward{};
  std::vector<Piece> weight_gradient{};
};

Dtype dtype_of(std::string_view name) {
  check(name == "bfloat16" || name == "float16" || name == "float32", "a type of the table");
  return name == "bfloat16" ? Dtype::bfloat16 : name == "float16" ? Dtype::float16 : Dtype::float32;
}

std::vector<Piece> pieces_of(const nlohmann::json& json) {
  std::vector<Piece> pieces;
  for (const nlohmann::json& piece : json) {
    pieces.push_back({piece.at(0), piece.at(1), piece.at(2)});
  }
  return pieces;
}

std::vector<Row> read_table() {
  std::vector<Row> rows;
  for (const EmbeddedFile& file : embedded_convolutions()) {
    const nlohmann::json json = nlohmann::json::parse(file.text);
    for (const nlohmann::json& row : json.at("convolutions")) {
      rows.push_back({.out_channels = row.at("out_channels"),
                      .patch = row.at("patch"),
                      .image = row.at("image"),
                      .dtype = dtype_of(row.at("type").get_ref<const std::string&>()),
                      .forward = pieces_of(row.at("forward")),
                      .weight_gradient = pieces_of(row.at("weight_gradient"))});
    }
  }
  return rows;
}

const Row* measured(const ConvolutionShape& shape, Dtype dtype) {
  static const std::vector<Row> rows = read_table();
  for (const Row& row : rows) {
    if (row.dtype == dtype && row.out_channels == shape.out_channels && shape.in_channels == 3 &&
        row.patch * row.patch == shape.window && row.image * row.image == shape.image) {
      return &row;
    }
  }
  return nullptr;
}

Bytes at(const std::vector<Piece>& pieces, std::int64_t batch) {
  Bytes size;
  for (const Piece& piece : pieces) {
    if (piece.first_batch <= batch) {
      size = Bytes{piece.per_image * batch + piece.fixed};
    }
  }
  return size;
}

/// cuDNN computes in channels-last layout. For NCHW tensors its workspace holds all three in the
/// other layout, with the input channels padded to 16 bytes where the kernel asks for it, and a few
/// bytes of the engine's own; half-precision weight gradients of many rows are split over blocks,
/// with fp32 partial sums. fp32 products of few rows run in the given layout and need nothing. The
/// numbers of rows at which the kernels change are those of ViT-L/16 in the table.
ConvolutionWorkspace by_rule(const ConvolutionShape& shape, Dtype dtype) {
  const std::int64_t element = element_size(dtype);
  const std::int64_t unit = 16 / element;
  const std::int64_t padded = (shape.in_channels + unit - 1) / unit * unit;
  const std::int64_t rows = shape.batch * shape.patches;
  const auto copies = [&](std::int64_t channels) {
    return element *
           (shape.batch * channels * shape.image + shape.out_channels * channels * shape.window +
            shape.batch * shape.out_channels * shape.patches);
  };
  constexpr std::int64_t kEngine = 16;
  constexpr std::int64_t kGradientEngine = 144;
  constexpr std::int64_t kFewForwardRows = 800;
  constexpr std::int64_t kFewGradientRows = 400;
  if (!is_half(dtype)) {
    return {Bytes{rows > kFewForwardRows ? copies(shape.in_channels) + kEngine : 0},
            Bytes{rows > kFewGradientRows ? copies(padded) + kGradientEngine : 0}};
  }
  constexpr std::int64_t kManyRows = 2'400;
  constexpr std::int64_t kVeryManyRows = 12'600;
  const std::int64_t partials = rows > kVeryManyRows ? 4 : rows > kManyRows ? 3 : 0;
  const std::int64_t sums = partials * 4 * shape.out_channels * padded * shape.window;
  return {Bytes{copies(padded) + kEngine}, Bytes{copies(padded) + kEngine + sums}};
}

}  // namespace

ConvolutionWorkspace convolution_workspace(const ConvolutionShape& shape, Dtype dtype) {
  if (const Row* const row = measured(shape, dtype); row != nullptr) {
    return {at(row->forward, shape.batch), at(row->weight_gradient, shape.batch)};
  }
  return by_rule(shape, dtype);
}

}  // namespace peakcast::torch
