#pragma once

#include <cstdint>
#include <optional>

#include "workloads/model_config.hpp"
#include "workloads/models/attention.hpp"
#include "workloads/models/language_model.hpp"
#include "workloads/torch/module.hpp"

/// What transformers' decoder-only models share.
namespace peakcast::models {

struct CausalMaskCall {
  Attention implementation{};
  std::optional<std::int64_t> sliding_window{};  ///< create_sliding_window_causal_mask
  bool with_cache{};                             ///< past_key_values is not None
  torch::Tensor padding{};                       ///< a 2-D mask of ones, or undefined
};
/// create_causal_mask without padding: the check for packed sequences, then the mask that
/// attention takes, or none where its causal flag is enough. `position_ids` may be undefined.
/// Source: transformers 5.17, masking_utils.py.
[[nodiscard]] torch::Tensor causal_mask(const torch::Tensor& inputs_embeds,
                                        const torch::Tensor& position_ids,
                                        const CausalMaskCall& call);

/// create_bidirectional_sliding_window_mask of an all-ones mask: none where the window holds the
/// whole sequence.
[[nodiscard]] torch::Tensor bidirectional_window_mask(const torch::Tensor& inputs_embeds,
                                                      const torch::Tensor& attention_mask,
                                                      Attention implementation,
                                                      std::int64_t window);

/// torch.arange(length) + 0, with a first dimension of one.
[[nodiscard]] torch::Tensor make_position_ids(std::int64_t length);

/// Labels with one more column, so that all can be shifted by one.
[[nodiscard]] torch::Tensor padded_labels(const torch::Tensor& labels);

/// ForCausalLMLoss: fp32 logits, labels shifted by one column. `logits` is the caller's name.
/// Source: transformers 5.17, loss/loss_utils.py.
[[nodiscard]] torch::Tensor causal_lm_loss(const torch::Tensor& logits, const torch::Tensor& labels,
                                           std::int64_t vocab_size);

/// DynamicCache: keys and values of every layer, kept by the model's output.
struct KeyValueCache {
  torch::TensorList tensors{};
  /// torch.cat with what was there (nothing, in training): a copy that the cache keeps.
  void update(torch::Tensor& key, torch::Tensor& value);
};

/// input_ids and labels, int64 [batch, seq].
[[nodiscard]] std::vector<LanguageModel::InputSpec> causal_lm_inputs(const BatchShape& shape);

/// A base model's output.
struct BaseOutput {
  torch::Tensor last_hidden_state{};
  KeyValueCache cache{};
  torch::TensorList take_tensors() {
    torch::TensorList tensors = std::move(cache.tensors);
    tensors.insert(tensors.begin(), std::move(last_hidden_state));
    return tensors;
  }
  void put_tensors(torch::TensorList tensors) {
    last_hidden_state = std::move(tensors.front());
    tensors.erase(tensors.begin());
    cache.tensors = std::move(tensors);
  }
};

}  // namespace peakcast::models
