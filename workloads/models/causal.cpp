#include "workloads/models/causal.hpp"

#include <utility>

#include "workloads/torch/kernels.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::models {
namespace {

using torch::Dtype;
using torch::GradMode;
using torch::Locals;
using torch::OpScope;
using torch::Tensor;

/// Tensor.cumsum(-1) of a boolean [rows, n].
Tensor cumsum(const Tensor& self) {
  const OpScope scope{"cumsum", {&self}};
  Tensor out = torch::empty(self.sizes(), Dtype::int64);
  const Tensor widened = self.to(Dtype::int64);
  if (self.numel() == self.size(-1)) {  // one row: cub's scan, with scratch
    torch::empty({torch::cumsum_scratch(self.numel(), 8).count()}, Dtype::uint8).reset();
  }
  return out;
}

/// find_packed_sequence_indices: positions that do not count up by one begin a new sequence. They
/// always do count up here.
void check_packed_sequences(const Tensor& position_ids) {
  Locals locals;
  Tensor& first_dummy_value = locals.add();
  Tensor& position_diff = locals.add();
  Tensor& packed = locals.add();
  first_dummy_value = position_ids.slice(1, 0, 1) - torch::integer(1);
  {  // torch.diff
    const Tensor joined = torch::cat({first_dummy_value, position_ids}, -1);
    const std::int64_t n = joined.size(-1);
    position_diff = joined.slice(1, 1, n) - joined.slice(1, 0, n - 1);
  }
  {
    const Tensor number = torch::integer(1);
    const Tensor changes = torch::pointwise("ne", {&position_diff, &number}, Dtype::boolean);
    packed = cumsum(changes);
  }
  const Tensor last = packed.select(1, packed.size(1) - 1);
  Tensor is_zero = torch::pointwise("eq", {&last}, Dtype::boolean);
  const Tensor all = torch::all(is_zero);
  is_zero.reset();
  torch::item(all);
}

/// sdpa_mask: a boolean [batch, 1, queries, keys] that is broadcast over the batch.
Tensor boolean_mask(const Tensor& inputs_embeds, const std::optional<std::int64_t>& window) {
  const std::int64_t length = inputs_embeds.size(1);
  Locals locals;
  Tensor& batch_arange = locals.add();
  Tensor& head_arange = locals.add();
  Tensor& q_arange = locals.add();
  Tensor& kv_arange = locals.add();
  batch_arange = torch::arange(inputs_embeds.size(0));
  head_arange = torch::arange(1);
  q_arange = torch::arange(length) + torch::integer(1);
  kv_arange = torch::arange(length) + torch::integer(1);
  const Tensor q = q_arange.view({1, 1, length, 1});
  const Tensor kv = kv_arange.view({1, 1, 1, length});
  Tensor mask;
  if (window) {  // and_masks(sliding_window_overlay, causal_mask_function)
    // result = result & mask_function(...): the function's mask goes before the old result.
    const auto and_with = [&mask](Tensor condition) {
      Tensor both = torch::pointwise("bitwise_and", {&mask, &condition}, Dtype::boolean);
      condition.reset();
      mask = std::move(both);
    };
    mask = torch::empty({}, Dtype::boolean);
    Tensor edge = q - torch::integer(1);
    Tensor inside = torch::pointwise("gt", {&kv, &edge}, Dtype::boolean);
    edge.reset();
    and_with(std::move(inside));
    and_with(torch::pointwise("le", {&kv, &q}, Dtype::boolean));
  } else {
    mask = torch::pointwise("le", {&kv, &q}, Dtype::boolean);
  }
  return mask.expand({inputs_embeds.size(0), -1, length, length});
}

}  // namespace

Tensor causal_mask(const Tensor& inputs_embeds, const Tensor& position_ids,
                   const CausalMaskCall& call) {
  const GradMode no_grad{false};
  if (!call.with_cache && position_ids.defined()) {
    check_packed_sequences(position_ids.expand({inputs_embeds.size(0), -1}));
  }
  const bool windowed = call.sliding_window && inputs_embeds.size(1) >= *call.sliding_window;
  if (call.implementation == Attention::sdpa) {
    return windowed ? boolean_mask(inputs_embeds, call.sliding_window) : Tensor{};
  }
  Tensor mask = boolean_mask(inputs_embeds, call.sliding_window);
  const Tensor zero =
      torch::to_device(torch::host_tensor({}, inputs_embeds.dtype()), Category::temporary);
  const OpScope scope{"where", {&mask}};
  Tensor least = torch::empty({}, inputs_embeds.dtype());
  Tensor out = torch::pointwise("where", {&mask, &zero}, inputs_embeds.dtype());
  least.reset();
  return out;
}

Tensor make_position_ids(std::int64_t length) {
  return (torch::arange(length) + torch::integer(1)).unsqueeze(0);
}

Tensor causal_lm_loss(const Tensor& logits_argument, const Tensor& labels_argument,
                      std::int64_t vocab_size) {
  Locals locals;
  Tensor& logits = locals.add(logits_argument);
  Tensor& labels = locals.add(labels_argument);
  Tensor& shift_labels = locals.add();
  logits = logits.to(Dtype::float32);
  {
    const OpScope scope{"constant_pad_nd"};
    labels = torch::empty({labels.size(0), labels.size(1) + 1}, labels.dtype());
    torch::in_place("fill_", labels, {});
    torch::in_place("copy_", labels, {&labels_argument});
  }
  shift_labels = labels.slice(1, 1, labels.size(1)).contiguous();
  logits = logits.view({-1, vocab_size});
  shift_labels = shift_labels.view({-1});
  return torch::cross_entropy(logits, shift_labels);
}

void KeyValueCache::update(Tensor& key, Tensor& value) {
  key = torch::cat({key}, -2);
  tensors.push_back(key);
  value = torch::cat({value}, -2);
  tensors.push_back(value);
}

std::vector<LanguageModel::InputSpec> causal_lm_inputs(const BatchShape& shape) {
  const torch::Shape tokens{shape.batch, shape.seq};
  return {{"input_ids", tokens, Dtype::int64}, {"labels", tokens, Dtype::int64}};
}

}  // namespace peakcast::models
