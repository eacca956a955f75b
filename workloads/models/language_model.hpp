#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "workloads/run_spec.hpp"
#include "workloads/torch/module.hpp"

namespace peakcast::models {

/// The tensors of one micro-batch, as the training loop's `data` dictionary holds them, in order.
struct Batch {
  struct Item {
    std::string name{};
    torch::Tensor tensor{};
  };
  std::vector<Item> items{};
  /// Undefined when the dictionary has no such key.
  [[nodiscard]] torch::Tensor at(std::string_view name) const;
};

/// What `model(**data)` returns: fields in the order of the ModelOutput's class. Fields not given
/// stay undefined. Assigning a new output lets the old one's fields go in this order.
struct ModelOutput {
  torch::Tensor loss{};
  torch::Tensor aux_loss{};  ///< of a mixture of experts
  torch::Tensor logits{};
  std::vector<torch::Tensor> others{};  ///< key values, hidden states that the output keeps

  [[nodiscard]] torch::TensorList take_tensors();
  void put_tensors(torch::TensorList tensors);
};

/// A model with its head: what a training loop calls.
class LanguageModel : public torch::Module {
 public:
  using Module::Module;
  std::optional<std::int64_t> target_seq{};  ///< of a decoder's labels; the source's unless given
  /// The host tensors of one micro-batch in the order of the dictionary (dtype, sizes): they are
  /// brought to the device by the loop.
  struct InputSpec {
    std::string name{};
    torch::Shape sizes{};
    torch::Dtype dtype{};
  };
  [[nodiscard]] virtual std::vector<InputSpec> inputs(const BatchShape& shape) const = 0;
  /// model(**data). Arguments stay alive (the loop's dictionary holds them).
  [[nodiscard]] virtual ModelOutput call(const Batch& batch) = 0;
  /// call(), with the hooks of the root module around it.
  [[nodiscard]] ModelOutput operator()(const Batch& batch);
  /// gradient_checkpointing_enable().
  virtual void enable_checkpointing(Checkpoint kind) = 0;
  /// Takes the loss through a fused kernel; false: this model's is not described.
  [[nodiscard]] virtual bool fuse_loss() { return false; }
  /// get_input_embeddings(), or null.
  [[nodiscard]] virtual Module* input_embeddings() { return nullptr; }
};

}  // namespace peakcast::models
