#pragma once

#include <memory>
#include <string_view>

#include "workloads/model_config.hpp"
#include "workloads/torch/module.hpp"

namespace peakcast::models {

/// Class name of the routers, whose logits a model may have to record.
inline constexpr std::string_view kRouterClass = "TopKRouter";

struct ExpertsResult {
  torch::Tensor output{};
  torch::Tensor scores{};  ///< the routers' of gpt-oss, which the layer keeps for a while
  torch::TensorList take_tensors() { return {std::move(output), std::move(scores)}; }
  void put_tensors(torch::TensorList tensors) {
    output = std::move(tensors[0]);
    scores = std::move(tensors[1]);
  }
};

/// A feed-forward of routed experts: a router picks some for each token, and grouped products run
/// them. Source: transformers 5.17, models/{mixtral,qwen3_moe,gpt_oss,deepseek_v3}/modeling_*.py
/// and integrations/moe.py.
class ExpertsBlock : public torch::ModuleOf<ExpertsBlock> {
 public:
  ExpertsBlock(torch::Module* parent, std::string_view name, const ModelConfig& c);
  ~ExpertsBlock() override;
  ExpertsResult forward(const torch::Tensor& input);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace peakcast::models
