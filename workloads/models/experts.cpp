#include "workloads/models/experts.hpp"

#include <utility>

#include "workloads/family.hpp"
#include "workloads/models/activation.hpp"
#include "workloads/models/decoder_layers.hpp"
#include "workloads/models/decoder_traits.hpp"
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

/// Which tokens go where. Each family has its own way of scoring.
struct TopKRouter : ModuleOf<TopKRouter> {
  TopKRouter(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        config{c},
        kind{c.family->decoder->experts},
        weight{add_parameter("weight", {c.experts, c.hidden_size})} {
    if (kind == DecoderTraits::Experts::gpt_oss) {
      bias = add_parameter("bias", {c.experts});
    } else if (kind == DecoderTraits::Experts::deepseek) {
      correction = add_buffer("e_score_correction_bias", {c.experts}, Dtype::float32);
    }
  }
  [[nodiscard]] std::string_view type_name() const override { return kRouterClass; }
  RouterOutput forward(const Tensor& input) {
    switch (kind) {
      case DecoderTraits::Experts::gpt_oss:
        return softmax_of_chosen(input);
      case DecoderTraits::Experts::deepseek:
        return chosen_by_group(input);
      case DecoderTraits::Experts::none:
      case DecoderTraits::Experts::mixtral:
      case DecoderTraits::Experts::qwen3:
        break;
    }
    return chosen_of_softmax(input);
  }

 private:
  RouterOutput chosen_of_softmax(const Tensor& input) {
    Locals locals;
    Tensor& hidden_states = locals.add(input.reshape({-1, weight.size(1)}));
    Tensor& logits = locals.add();
    Tensor& probabilities = locals.add();
    Tensor& values = locals.add();
    Tensor& indices = locals.add();
    logits = torch::linear(hidden_states, weight, Tensor{});
    probabilities = torch::softmax(logits, Dtype::float32);
    take(torch::topk(probabilities, config.experts_per_token), values, indices);
    if (config.decoder.normalise_weights) {
      torch::div_in_place(values, torch::sum(values, {-1}, true));
    }
    if (kind == DecoderTraits::Experts::qwen3) {
      values = values.to(logits.dtype());
    }
    return {logits, values, indices};
  }
  RouterOutput softmax_of_chosen(const Tensor& input) {
    Locals locals;
    Tensor& logits = locals.add(torch::linear(input, weight, bias));
    Tensor& values = locals.add();
    Tensor& indices = locals.add();
    take(torch::topk(logits, config.experts_per_token), values, indices);
    Tensor& scores = locals.add(torch::softmax(values, values.dtype()));
    return {logits, scores, indices};
  }
  /// Some groups of experts are chosen first, by their two best; then experts among them.
  RouterOutput chosen_by_group(const Tensor& input) {
    const std::int64_t groups = config.decoder.groups;
    const std::int64_t each = config.experts / groups;
    Locals locals;
    Tensor& hidden_states = locals.add(input.view({-1, weight.size(1)}));
    Tensor& logits = locals.add();
    Tensor& scores = locals.add();
    Tensor& choice = locals.add();
    Tensor& group_scores = locals.add();
    Tensor& group_index = locals.add();
    Tensor& group_mask = locals.add();
    Tensor& score_mask = locals.add();
    Tensor& indices = locals.add();
    Tensor& weights = locals.add();
    Tensor& denominator = locals.add();
    logits = torch::linear(hidden_states.to(Dtype::float32), weight.to(Dtype::float32), Tensor{});
    scores = torch::sigmoid(logits);
    choice = scores + correction;
    {
      Tensor best = torch::topk(choice.view({-1, groups, each}), 2).values;  // no indices
      group_scores = torch::sum(std::move(best), {-1}, false);
    }
    group_index = torch::topk(group_scores, config.decoder.groups_kept).indices;
    group_mask = torch::empty_like(group_scores);
    score_mask = group_mask.unsqueeze(-1).expand({-1, groups, each}).reshape({-1, config.experts});
    {
      Tensor dropped = score_mask.to(Dtype::boolean);
      dropped = torch::pointwise("bitwise_not", {&dropped}, Dtype::boolean);
      choice = torch::masked_fill(choice, std::move(dropped));
    }
    indices = torch::topk(choice, config.experts_per_token).indices;
    weights = torch::gather(scores, indices);
    if (config.decoder.normalise_weights) {
      denominator = torch::sum(weights, {-1}, true) + 1e-20;
      torch::div_in_place(weights, denominator);
    }
    weights = weights * 1.0;
    return {logits, weights, indices};
  }
  static void take(torch::Selected selected, Tensor& values, Tensor& indices) {
    values = std::move(selected.values);
    indices = std::move(selected.indices);
  }
  const ModelConfig& config;
  DecoderTraits::Experts kind;
  Tensor weight;
  Tensor bias{};
  Tensor correction{};
};

struct Experts : ModuleOf<Experts> {
  Experts(Module* parent, std::string_view name, const ModelConfig& c)
      : ModuleOf{parent, name},
        // gpt-oss keeps its matrices transposed, with biases, and gates them by formula.
        transposed{c.family->decoder->experts == DecoderTraits::Experts::gpt_oss} {
    const std::int64_t up = 2 * c.expert_size;
    if (transposed) {
      gate_up_proj = add_parameter("gate_up_proj", {c.experts, c.hidden_size, up});
      gate_up_proj_bias = add_parameter("gate_up_proj_bias", {c.experts, up});
      down_proj = add_parameter("down_proj", {c.experts, c.expert_size, c.hidden_size});
      down_proj_bias = add_parameter("down_proj_bias", {c.experts, c.hidden_size});
    } else {
      gate_up_proj = add_parameter("gate_up_proj", {c.experts, up, c.hidden_size});
      down_proj = add_parameter("down_proj", {c.experts, c.hidden_size, c.expert_size});
      act_fn = std::make_unique<torch::FunctionModule>(
          this, "act_fn", [kind = c.activation](const Tensor& x) { return activate(kind, x); });
    }
  }

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
    Tensor& biases = locals.add();
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
    biases = biases_of(gate_up_proj_bias, expert_ids_sorted);
    torch::masked_fill_in_place(selected, sentinels);
    projected = grouped_linear(selected, gate_up_proj, offsets, biases);
    projected = torch::masked_fill(projected, sentinels);
    projected = gate(projected);
    biases = biases_of(down_proj_bias, expert_ids_sorted);
    projected = grouped_linear(projected, down_proj, offsets, biases);
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

 private:
  [[nodiscard]] static Tensor biases_of(const Tensor& bias, const Tensor& rows) {
    return bias.defined() ? torch::index(bias, rows) : Tensor{};
  }
  [[nodiscard]] Tensor grouped_linear(const Tensor& input, const Tensor& weight,
                                      const Tensor& offsets, const Tensor& bias) const {
    Tensor out = torch::grouped_mm(input.to(weight.dtype()),
                                   transposed ? weight : weight.transpose(-2, -1), offsets);
    if (bias.defined()) {
      torch::add_in_place(out, bias);
    }
    return out;
  }
  [[nodiscard]] Tensor gate(const Tensor& gate_up) {
    Locals locals;
    Tensor& gate_half = locals.add();
    Tensor& up_half = locals.add();
    if (transposed) {
      gate_half = gate_up.every(-1, 0, 2);
      up_half = gate_up.every(-1, 1, 2);
      gate_half = torch::clamp(gate_half, torch::Bounds::above);
      up_half = torch::clamp(up_half, torch::Bounds::both);
      Tensor& glu = locals.add();
      glu = gate_half * torch::sigmoid(gate_half * 1.702);
      return (up_half + 1.0) * glu;
    }
    {
      torch::TensorList halves = torch::chunk(gate_up, 2, -1);
      gate_half = std::move(halves[0]);
      up_half = std::move(halves[1]);
    }
    return (*act_fn)(gate_half)*up_half;
  }
  bool transposed;
  Tensor gate_up_proj{};
  Tensor gate_up_proj_bias{};
  Tensor down_proj{};
  Tensor down_proj_bias{};
  std::unique_ptr<torch::FunctionModule> act_fn{};
};

}  // namespace

struct ExpertsBlock::Parts {
  Parts(Module* parent, const ModelConfig& c) : kind{c.family->decoder->experts} {
    const bool router_first =
        kind == DecoderTraits::Experts::mixtral || kind == DecoderTraits::Experts::gpt_oss;
    const auto make_router = [&](std::string_view name) {
      gate = std::make_unique<TopKRouter>(parent, name, c);
    };
    if (router_first) {
      make_router(kind == DecoderTraits::Experts::gpt_oss ? "router" : "gate");
    }
    experts = std::make_unique<Experts>(parent, "experts", c);
    if (!router_first) {
      make_router("gate");
    }
    if (c.decoder.shared_experts > 0) {
      shared_experts = std::make_unique<GatedMLP>(parent, "shared_experts", c,
                                                  c.expert_size * c.decoder.shared_experts);
    }
  }
  DecoderTraits::Experts kind;
  std::unique_ptr<TopKRouter> gate{};
  std::unique_ptr<Experts> experts{};
  std::unique_ptr<GatedMLP> shared_experts{};
};

ExpertsBlock::ExpertsBlock(Module* parent, std::string_view name, const ModelConfig& c)
    : ModuleOf{parent, name}, parts_{std::make_unique<Parts>(this, c)} {}
ExpertsBlock::~ExpertsBlock() = default;

ExpertsResult ExpertsBlock::forward(const Tensor& input) {
  using Kind = DecoderTraits::Experts;
  const torch::Shape shape = input.sizes();
  Locals locals;
  Tensor& hidden_states = locals.add(input);
  Tensor& residuals = locals.add();
  Tensor& logits = locals.add();  // Python's "_"
  Tensor& weights = locals.add();
  Tensor& indices = locals.add();
  const auto flatten = [&] { hidden_states = hidden_states.view({-1, input.size(-1)}); };
  if (parts_->kind == Kind::deepseek) {
    residuals = hidden_states;
  } else {
    flatten();
  }
  {
    RouterOutput routed = (*parts_->gate)(hidden_states);
    logits = std::move(routed.logits);
    weights = std::move(routed.weights);
    indices = std::move(routed.indices);
  }
  if (parts_->kind == Kind::deepseek) {
    flatten();
  }
  hidden_states = (*parts_->experts)(hidden_states, indices, weights);
  hidden_states = hidden_states.reshape(shape);
  if (parts_->shared_experts) {
    hidden_states = hidden_states + (*parts_->shared_experts)(residuals);
  }
  return {hidden_states, parts_->kind == Kind::gpt_oss ? weights : Tensor{}};
}

}  // namespace peakcast::models
