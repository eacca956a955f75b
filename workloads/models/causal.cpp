#include "workloads/models/causal.hpp"

#include <utility>

#include "workloads/torch/ops.hpp"

namespace peakcast::models {
namespace {

using torch::Dtype;
using torch::GradMode;
using torch::Locals;
using torch::OpScope;
using torch::Tensor;

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
    packed = torch::cumsum_rows(changes);
  }
  const Tensor last = packed.select(1, packed.size(1) - 1);
  Tensor is_zero = torch::pointwise("eq", {&last}, Dtype::boolean);
  const Tensor all = torch::all(is_zero);
  is_zero.reset();
  torch::item(all);
}

/// What a mask is made of (masking_utils.py's mask functions).
struct MaskRule {
  std::optional<std::int64_t> window{};
  bool bidirectional{};
  Tensor padding{};  ///< boolean [batch, keys], or undefined
};

/// and_masks(): the conjunction of what has been made so far and of one more.
class Conjunction {
 public:
  Conjunction() : result_{torch::empty({}, Dtype::boolean)} {}
  /// result = result & mask: the mask goes before the old result.
  void with(Tensor mask) {
    Tensor both = torch::pointwise("bitwise_and", {&result_, &mask}, Dtype::boolean);
    mask.reset();
    result_ = std::move(both);
  }
  [[nodiscard]] Tensor take() { return std::move(result_); }

 private:
  Tensor result_;
};

/// The window and what it is combined with, or the causal rule alone.
Tensor pattern(const MaskRule& rule, const Tensor& q, const Tensor& kv) {
  if (!rule.window) {
    return torch::pointwise("le", {&kv, &q}, Dtype::boolean);
  }
  Conjunction all;
  if (rule.bidirectional) {
    Tensor distance = q - kv;
    Tensor magnitude = torch::pointwise("abs", {&distance}, Dtype::int64);
    distance.reset();
    Tensor inside = torch::pointwise("le", {&magnitude}, Dtype::boolean);
    magnitude.reset();
    all.with(std::move(inside));
    all.with(torch::pointwise("ge", {&q}, Dtype::boolean));
    return all.take();
  }
  Tensor edge = q - torch::integer(1);
  Tensor inside = torch::pointwise("gt", {&kv, &edge}, Dtype::boolean);
  edge.reset();
  all.with(std::move(inside));
  all.with(torch::pointwise("le", {&kv, &q}, Dtype::boolean));
  return all.take();
}

/// padding[batch, keys]: both indices are widened for the call.
Tensor padding_rows(const Tensor& padding) {
  const torch::Shape sizes{padding.size(0), 1, 1, padding.size(1)};
  const OpScope scope{"index", {&padding}};
  Tensor rows = torch::empty(sizes, Dtype::int64);
  Tensor columns = torch::empty(sizes, Dtype::int64);
  Tensor out = torch::empty(sizes, Dtype::boolean);
  columns.reset();
  rows.reset();
  return out;
}

/// sdpa_mask: a boolean [batch, 1, queries, keys] that is broadcast over the batch.
Tensor boolean_mask(const Tensor& inputs_embeds, const MaskRule& rule) {
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
  if (rule.padding.defined()) {
    Conjunction all;
    all.with(pattern(rule, q, kv));
    all.with(padding_rows(rule.padding));
    mask = all.take();
  } else {
    mask = pattern(rule, q, kv);
  }
  return mask.expand({inputs_embeds.size(0), -1, length, length});
}

/// eager_mask: zero where a token counts, and the least number where it does not.
Tensor additive(Tensor mask, Dtype dtype) {
  const Tensor zero = torch::to_device(torch::host_tensor({}, dtype), Category::temporary);
  const OpScope scope{"where", {&mask}};
  Tensor least = torch::empty({}, dtype);
  Tensor out = torch::pointwise("where", {&mask, &zero}, dtype);
  least.reset();
  return out;
}

}  // namespace

Tensor causal_mask(const Tensor& inputs_embeds, const Tensor& position_ids,
                   const CausalMaskCall& call) {
  const GradMode no_grad{false};
  Tensor padding;
  if (call.padding.defined()) {
    padding = call.padding.to(Dtype::boolean);
  } else if (!call.with_cache && position_ids.defined()) {
    check_packed_sequences(position_ids.expand({inputs_embeds.size(0), -1}));
  }
  if (call.implementation == Attention::sdpa) {
    // The causal flag is enough where nothing is padded and no window is left.
    if (padding.defined()) {
      torch::item(torch::all(padding));
    }
    const bool windowed = call.sliding_window && inputs_embeds.size(1) >= *call.sliding_window;
    return windowed
               ? boolean_mask(inputs_embeds, {.window = call.sliding_window, .padding = padding})
               : Tensor{};
  }
  return additive(boolean_mask(inputs_embeds, {.window = call.sliding_window, .padding = padding}),
                  inputs_embeds.dtype());
}

Tensor bidirectional_window_mask(const Tensor& inputs_embeds, const Tensor& attention_mask,
                                 Attention implementation, std::int64_t window) {
  const GradMode no_grad{false};
  const Tensor padding = attention_mask.to(Dtype::boolean);
  torch::item(torch::all(padding));
  if (inputs_embeds.size(1) < window) {
    return {};
  }
  Tensor mask =
      boolean_mask(inputs_embeds, {.window = window, .bidirectional = true, .padding = padding});
  return implementation == Attention::sdpa ? mask
                                           : additive(std::move(mask), inputs_embeds.dtype());
}

Tensor make_position_ids(std::int64_t length) {
  return (torch::arange(length) + torch::integer(1)).unsqueeze(0);
}

Tensor padded_labels(const Tensor& labels) {
  const OpScope scope{"constant_pad_nd"};
  Tensor padded = torch::empty({labels.size(0), labels.size(1) + 1}, labels.dtype());
  torch::in_place("fill_", padded, {});
  torch::in_place("copy_", padded, {&labels});
  return padded;
}

Tensor causal_lm_loss(const Tensor& logits_argument, const Tensor& labels_argument,
                      std::int64_t vocab_size) {
  Locals locals;
  Tensor& logits = locals.add(logits_argument);
  Tensor& labels = locals.add(labels_argument);
  Tensor& shift_labels = locals.add();
  logits = logits.to(Dtype::float32);
  labels = padded_labels(labels_argument);
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
