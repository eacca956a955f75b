#include "workloads/models/experts.hpp"

#include <utility>

#include "workloads/models/activation.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::models {
namespace {

using torch::Dtype;
using torch::Locals;
using torch::Module;
using torch::ModuleOf;
using torch::Tensor;

struct RouterOutput {
  Tensor logits{};
  Tensor weights{};
  Tensor indices{};
  torch::TensorList take_tensors() {
    return {std::move(logits), std::move(weights), std::move(indices)};
  }
  void put_tensors(torch::TensorList tensors) {
    logits = std::move(tensors[0]);
    weights = std::move(tensors[1]);
    indices = std::move(tensors[2]);
  }
};

struct TopKRouter : ModuleOf<TopKRouter> {
  TopKRouter(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        weight{add_parameter("weight", {c.experts, c.hidden_size})},
        experts_per_token{c.experts_per_token} {}
  [[nodiscard]] std::string_view type_name() const override { return kRouterClass; }
  RouterOutput forward(const Tensor& input) {
    Locals locals;
    Tensor& hidden_states = locals.add(input.reshape({-1, weight.size(1)}));
    Tensor& logits = locals.add();
    Tensor& probabilities = locals.add();
    Tensor& values = locals.add();
    Tensor& indices = locals.add();
    logits = torch::linear(hidden_states, weight, Tensor{});
    probabilities = torch::softmax(logits.to(Dtype::float32));
    {
      torch::Selected selected = torch::topk(probabilities, experts_per_token);
      values = std::move(selected.values);
      indices = std::move(selected.indices);
    }
    torch::div_in_place(values, torch::sum(values, {-1}, true));
    return {logits, values, indices};
  }
  Tensor weight;
  std::int64_t experts_per_token;
};

struct Experts : ModuleOf<Experts> {
  Experts(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        gate_up_proj{
            add_parameter("gate_up_proj", {c.experts, 2 * c.intermediate_size, c.hidden_size})},
        down_proj{add_parameter("down_proj", {c.experts, c.hidden_size, c.intermediate_size})},
        act_fn{this, "act_fn",
               [kind = c.activation](const Tensor& x) { return activate(kind, x); }} {}

  /// grouped_mm_experts_forward: tokens sorted by expert, two grouped products, and back.
  Tensor forward(const Tensor& hidden_states, const Tensor& top_k_index,
                 const Tensor& top_k_weights) {
    const std::int64_t experts = gate_up_proj.size(0);
    const std::int64_t tokens = hidden_states.size(0);
    const std::int64_t per_token = top_k_index.size(1);
    Locals locals;
    Tensor& expert_ids = locals.add();
    Tensor& sample_weights = locals.add();
    Tensor& expert_ids_sorted = locals.add();
    Tensor& order = locals.add();
    Tensor& selected = locals.add();
    Tensor& sorted_weights = locals.add();
    Tensor& histogram_input = locals.add();
    Tensor& tokens_per_expert = locals.add();
    Tensor& offsets = locals.add();
    Tensor& sentinels = locals.add();
    Tensor& projected = locals.add();
    Tensor& weighted = locals.add();
    Tensor& inverse_order = locals.add();
    Tensor& result = locals.add();
    expert_ids = top_k_index.reshape({-1});
    sample_weights = top_k_weights.reshape({-1});
    {
      const torch::GradMode no_grad{false};
      torch::Selected sorted = torch::sort(expert_ids);
      expert_ids_sorted = std::move(sorted.values);
      order = std::move(sorted.indices);
    }
    selected =
        torch::index(hidden_states, torch::pointwise("floor_divide", {&order}, Dtype::int64));
    sorted_weights = torch::index(sample_weights, order);
    {
      const torch::GradMode no_grad{false};
      histogram_input = expert_ids_sorted.to(Dtype::int32);
      tokens_per_expert = torch::empty({experts}, Dtype::int32);
      offsets = torch::cumsum(tokens_per_expert, Dtype::int32);
      sentinels = torch::pointwise("ge", {&expert_ids_sorted}, Dtype::boolean).unsqueeze(-1);
    }
    torch::masked_fill_in_place(selected, sentinels);
    projected = torch::grouped_mm(selected, gate_up_proj.transpose(-2, -1), offsets);
    projected = torch::masked_fill(projected, sentinels);
    projected = gate(projected);
    projected = torch::grouped_mm(projected, down_proj.transpose(-2, -1), offsets);
    projected = torch::masked_fill(projected, sentinels);
    weighted = projected * sorted_weights.unsqueeze(-1);
    {
      const torch::GradMode no_grad{false};
      inverse_order = torch::empty_like(order);
      torch::arange(order.size(0)).reset();
    }
    weighted = torch::index(weighted, inverse_order);
    result = torch::sum(weighted.view({tokens, per_token, -1}), {1}, false);
    return result.to(hidden_states.dtype());
  }
  [[nodiscard]] Tensor gate(const Tensor& gate_up) {
    Locals locals;
    Tensor& gate_half = locals.add();
    Tensor& up_half = locals.add();
    {
      torch::TensorList halves = torch::chunk(gate_up, 2, -1);
      gate_half = std::move(halves[0]);
      up_half = std::move(halves[1]);
    }
    return act_fn(gate_half) * up_half;
  }
  Tensor gate_up_proj;
  Tensor down_proj;
  torch::FunctionModule act_fn;
};

}  // namespace

struct SparseMoeBlock::Parts {
  Parts(Module* parent, const ModelConfig& c)
      : gate{parent, "gate", c}, experts{parent, "experts", c} {}
  TopKRouter gate;
  Experts experts;
};

SparseMoeBlock::SparseMoeBlock(Module* parent, std::string_view name, const ModelConfig& c)
    : ModuleOf{parent, name}, parts_{std::make_unique<Parts>(this, c)} {}
SparseMoeBlock::~SparseMoeBlock() = default;

Tensor SparseMoeBlock::forward(const Tensor& input) {
  const torch::Shape shape = input.sizes();
  Locals locals;
  Tensor& hidden_states = locals.add(input);
  Tensor& logits = locals.add();  // Python's "_"
  Tensor& weights = locals.add();
  Tensor& indices = locals.add();
  hidden_states = hidden_states.view({-1, input.size(-1)});
  {
    RouterOutput routed = parts_->gate(hidden_states);
    logits = std::move(routed.logits);
    weights = std::move(routed.weights);
    indices = std::move(routed.indices);
  }
  hidden_states = parts_->experts(hidden_states, indices, weights);
  hidden_states = hidden_states.reshape(shape);
  return hidden_states;
}

}  // namespace peakcast::models
