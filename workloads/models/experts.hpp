#pragma once

#include <memory>
#include <string_view>

#include "workloads/model_config.hpp"
#include "workloads/torch/module.hpp"

namespace peakcast::models {

/// Class name of the routers, whose logits a model may have to record.
inline constexpr std::string_view kRouterClass = "TopKRouter";

/// A feed-forward of routed experts: a router picks some for each token, and grouped products run
/// them. Source: transformers 5.17, models/mixtral/modeling_mixtral.py and integrations/moe.py.
class SparseMoeBlock : public torch::ModuleOf<SparseMoeBlock> {
 public:
  SparseMoeBlock(torch::Module* parent, std::string_view name, const ModelConfig& c);
  ~SparseMoeBlock() override;
  torch::Tensor forward(const torch::Tensor& input);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace peakcast::models
