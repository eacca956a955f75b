// What a plan of cuDNN's takes on the card.
#include <algorithm>
#include <array>
#include <string>

#include "workloads/capture/assume.hpp"
#include "workloads/capture/cudnn.hpp"
#include "workloads/capture/cudnn_backend.hpp"
#include "workloads/capture/cudnn_types.hpp"
#include "workloads/capture/machine.hpp"

namespace peakcast::capture::cudnn {
namespace {

/// "2-d convolution [64, 3, 224, 224]": the first operation and its largest tensor, for people.
std::string describe(const BackendDescriptor& graph) {
  const DescriptorRef operation = graph.first(kGraphOperations);
  if (operation == nullptr) {
    return "a graph";
  }
  const AttributeValue* const operations = graph.find(kGraphOperations);
  const bool convolution =
      operation->type >= kConvolutionForward && operation->type <= kConvolutionData;
  std::string text = convolution
                         ? "a convolution"
                         : "a graph of " + std::to_string(operations->count) + " operations";
  for (const auto& [name, value] : operation->attributes) {
    if (!value.descriptors.empty() && value.descriptors.front()->type == kTensor) {
      text += " [";
      for (const std::int64_t size : value.descriptors.front()->numbers(kTensorDimensions)) {
        text += (text.back() == '[' ? "" : ", ") + std::to_string(size);
      }
      return text + ']';
    }
  }
  return text;
}

/// What the engines for a graph of several operations take, which in PyTorch is attention: its
/// accumulators are the frontend's business. Measured: recordings with half-precision attention,
/// forward and backward (H100, cuDNN 9.19.0, PyTorch 2.11.0+cu130, driver 580.159.04).
constexpr std::int64_t kFusedWorkspace = 256;

/// Engines whose kernels split a product between the card's multiprocessors: what they keep of the
/// parts depends on how many run at a time, which cuDNN asks of a card and nothing else can tell.
/// Planned without a card, 258 of 327 convolutions' first choices are those that the card makes;
/// the other 69, of 1x1 convolutions, are chosen otherwise. Compared: cuDNN 9.19.0 with a handle
/// and without a card, H200, driver 580.159, 2026-11-29.
bool splits_by_card(const EngineConfig& config) {
  constexpr std::array<int, 3> kKnobs{18, 27, 28};  // IDX_MODE, TILE_CGA_M, TILE_CGA_N
  return std::all_of(kKnobs.begin(), kKnobs.end(), [&config](int wanted) {
    return std::any_of(config.knobs.begin(), config.knobs.end(),
                       [wanted](const auto& knob) { return knob.first == wanted; });
  });
}

}  // namespace

std::int64_t plan_workspace(const BackendDescriptor& config, int& status) {
  if (!client().version()) {
    const AttributeValue* const operations = config.graph->find(kGraphOperations);
    const bool is_fused = operations != nullptr && operations->count > 1;
    const std::int64_t bytes = is_fused ? kFusedWorkspace : 0;
    assume("cuDNN's workspace for " + describe(*config.graph),
           std::to_string(bytes) + " bytes: no libcudnn.so.9 to ask");
    status = kSuccess;
    return bytes;
  }
  const std::int64_t bytes = client().workspace(config.config->id, status).value_or(0);
  if (status == kSuccess && splits_by_card(*config.config)) {
    assume(
        "cuDNN's workspace for " + describe(*config.graph),
        std::to_string(bytes) + " bytes: planned without a card, whose multiprocessors share it");
  }
  return bytes;
}

}  // namespace peakcast::capture::cudnn
