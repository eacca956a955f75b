#include "workloads/models/finetuning.hpp"

#include <algorithm>
#include <array>
#include <regex>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "sim/core/nearest.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::models {
namespace {

using torch::Dtype;
using torch::GradMode;
using torch::Linear;
using torch::Module;
using torch::OpScope;
using torch::Tensor;
using torch::TensorList;

/// Output layers stay as they are: neither quantised nor, by "all-linear", adapted.
bool is_head(std::string_view name) {
  constexpr std::array<std::string_view, 3> kHeads{"lm_head", "score", "classifier"};
  return std::find(kHeads.begin(), kHeads.end(), name) != kHeads.end();
}

// -- 4-bit weights --------------------------------------------------------------------------------

/// What stands for a weight on the card: two values a byte, a scale per 64 of them, and with double
/// quantisation those scales in a byte each with a scale per 256.
/// Source: bitsandbytes 0.50.2, functional.py (quantize_4bit, dequantize_4bit); order and sizes as
/// an H200 recorded them (2026-11-29).
struct FourBitState {
  static constexpr std::int64_t kBlock = 64;
  static constexpr std::int64_t kOuterBlock = 256;
  torch::Shape sizes{};
  Tensor code{};
  Tensor scales{};
  Tensor offset{};  ///< double quantisation only, as the next two
  Tensor outer_code{};
  Tensor outer_scales{};

  [[nodiscard]] std::int64_t blocks() const { return (sizes.numel() + kBlock - 1) / kBlock; }
};

/// dequantize_4bit: the weight in bfloat16. With double quantisation its scales are unpacked first;
/// in the forward pass into two tensors that live as long as this does.
class Dequantised {
 public:
  Dequantised(const FourBitState& state, bool forward) {
    const OpScope scope{"dequantize_4bit"};
    if (state.offset.defined()) {
      scales_ = torch::empty({state.blocks()}, Dtype::float32);
      if (forward) {
        centred_ = torch::pointwise("add", {&scales_, &state.offset}, Dtype::float32);
      } else {
        torch::in_place("add_", scales_, {&state.offset});
      }
    }
    weight_ = torch::empty(state.sizes, Dtype::bfloat16);
    torch::in_place("dequantize_4bit", weight_);
    if (!forward) {
      scales_.reset();
    }
  }
  ~Dequantised() {
    centred_.reset();
    scales_.reset();
    weight_.reset();
  }
  Dequantised(const Dequantised&) = delete;
  Dequantised& operator=(const Dequantised&) = delete;
  [[nodiscard]] const Tensor& weight() const { return weight_; }

 private:
  Tensor scales_{};
  Tensor centred_{};
  Tensor weight_{};
};

/// MatMul4Bit: the weight is unpacked for the product, and again for the gradient of its input.
struct MatMul4BitBackward final : torch::Node {
  explicit MatMul4BitBackward(const FourBitState& of) : state{of} {}
  [[nodiscard]] const char* name() const override { return "MatMul4BitBackward"; }
  TensorList apply(TensorList& grads) override {
    const Dequantised unpacked{state, false};
    return {torch::matmul(grads[0], unpacked.weight())};
  }
  const FourBitState& state;
};

class FourBitLinear final : public torch::LinearReplacement {
 public:
  /// `map`: brought to the card by the first of all layers, for all.
  FourBitLinear(Tensor bias, bool double_quant, std::shared_ptr<Tensor> map)
      : bias_{std::move(bias)}, double_quant_{double_quant}, map_{std::move(map)} {}

  Tensor forward(const Tensor& argument) override {
    const Dtype input_dtype = argument.dtype();
    const Tensor x = argument.to(Dtype::bfloat16);
    const Tensor bias = bias_.defined() ? bias_.to(Dtype::bfloat16) : Tensor{};
    const auto node = torch::make_node<MatMul4BitBackward>({&x}, state_);
    Tensor out;
    {
      const GradMode no_grad{false};
      const torch::Setting<bool> plain{torch::Runtime::current().autocast.enabled, false};
      const Dequantised unpacked{state_, true};
      out = torch::linear(x, unpacked.weight(), bias);
    }
    return torch::with_history(std::move(out), node).to(input_dtype);
  }

  bool bring_to_cuda(Module::Named& parameter) override {
    if (parameter.name != "weight") {
      return false;
    }
    const GradMode no_grad{false};
    const OpScope scope{"quantize_4bit"};
    Tensor weight = torch::to_device(parameter.tensor, Category::parameter);
    state_.sizes = weight.sizes();
    Tensor scales = torch::empty({state_.blocks()}, Dtype::float32, Category::parameter);
    Tensor packed = torch::empty({(weight.numel() + 1) / 2, 1}, Dtype::uint8, Category::parameter);
    state_.code = torch::empty({16}, Dtype::float32, Category::parameter);
    {
      Tensor magnitude = torch::pointwise("abs", {&state_.code}, Dtype::float32);
      const Tensor largest = torch::amax(magnitude);
      magnitude.reset();
    }
    if (double_quant_) {
      quantise_scales(scales);
    } else {
      state_.scales = scales;
    }
    scales.reset();
    weight.reset();
    parameter.tensor.set_data(packed);
    return true;
  }

 private:
  /// quantize_blockwise of the scales less their mean.
  void quantise_scales(const Tensor& scales) {
    state_.offset = torch::mean(scales, {}, false);
    state_.offset.storage()->set_category(Category::parameter);
    const Tensor centred = torch::pointwise("sub", {&scales, &state_.offset}, Dtype::float32);
    if (!map_->defined()) {
      *map_ = torch::empty({FourBitState::kOuterBlock}, Dtype::float32, Category::parameter);
    }
    const std::int64_t outer =
        (state_.blocks() + FourBitState::kOuterBlock - 1) / FourBitState::kOuterBlock;
    state_.outer_scales = torch::empty({outer}, Dtype::float32, Category::parameter);
    state_.scales = torch::empty({state_.blocks()}, Dtype::uint8, Category::parameter);
    state_.outer_code =
        torch::empty({FourBitState::kOuterBlock}, Dtype::float32, Category::parameter);
  }
  FourBitState state_{};
  Tensor bias_;
  bool double_quant_;
  std::shared_ptr<Tensor> map_;
};

void quantise(LanguageModel& model, bool double_quant) {
  const auto shared_map = std::make_shared<Tensor>();
  for (const Module::Path& path : model.named_modules()) {
    auto* const layer = dynamic_cast<Linear*>(path.module);
    if (layer == nullptr || is_head(layer->name())) {
      continue;
    }
    layer->replacement = std::make_unique<FourBitLinear>(layer->bias, double_quant, shared_map);
  }
}

// -- LoRA -----------------------------------------------------------------------------------------

/// peft's lora.Linear: the base layer, and beside it two narrow ones. 4-bit layers too, as in a
/// model whose layers a script replaced; in one that from_pretrained quantised, peft's Linear4bit
/// makes one more copy of each result for a moment.
class LoraLinear final : public torch::LinearReplacement {
 public:
  LoraLinear(Linear& owner, const Lora& lora)
      : base_{&owner, "base_layer", owner.weight, owner.bias},
        down_{&owner, "lora_A.default", owner.weight.size(1), lora.rank, false},
        up_{&owner, "lora_B.default", lora.rank, owner.weight.size(0), false},
        dropout_{lora.dropout} {
    base_.replacement = std::move(owner.replacement);
    owner.own_parameters.clear();
  }

  Tensor forward(const Tensor& argument) override {
    torch::Locals locals;
    Tensor& x = locals.add(argument);
    Tensor& result = locals.add(base_(x));
    const Dtype dtype = result.dtype();
    x = x.to(down_.weight.dtype());
    result = result + up_(down_(torch::dropout(x, dropout_, true))) * 1.0;
    result = result.to(dtype);
    return result;
  }

 private:
  Linear base_;
  Linear down_;
  Linear up_;
  double dropout_;
};

/// Whether peft's target list means this layer: by its own name or a dotted end of its path.
bool is_target(const std::string& path, const std::string& target) {
  return path == target || path.ends_with("." + target);
}

Expected<Ok> adapt(LanguageModel& model, const Lora& lora) {
  std::set<std::string> unmatched(lora.targets.begin(), lora.targets.end());
  std::set<std::string> known;
  bool any = false;
  for (const Module::Path& path : model.named_modules()) {
    auto* const layer = dynamic_cast<Linear*>(path.module);
    if (layer == nullptr) {
      continue;
    }
    known.insert(layer->name());
    bool chosen = lora.targets.empty() && !is_head(layer->name());
    for (const std::string& target : lora.targets) {
      if (is_target(path.name, target)) {
        chosen = true;
        unmatched.erase(target);
      }
    }
    if (chosen) {
      layer->replacement = std::make_unique<LoraLinear>(*layer, lora);
      any = true;
    }
  }
  if (!unmatched.empty()) {
    const std::vector<std::string_view> names(known.begin(), known.end());
    return invalid_input(fmt::format("LoRA targets: {} (linear layers: {})",
                                     unknown_word("layer", *unmatched.begin(), names),
                                     fmt::join(names, ", ")));
  }
  if (!any) {
    return Error{.code = ErrorCode::unsupported,
                 .message = "LoRA on this model is not modelled: it has no plain linear layers"};
  }
  return Ok{};
}

std::vector<Module::Named> dotted_parameters(LanguageModel& model) {
  std::vector<Module::Named> found;
  std::set<const torch::TensorImpl*> seen;  // never iterated
  for (const Module::Path& path : model.named_modules()) {
    for (const Module::Named& entry : path.module->own_parameters) {
      if (seen.insert(entry.tensor.impl()).second) {
        found.push_back(
            {path.name.empty() ? entry.name : path.name + "." + entry.name, entry.tensor});
      }
    }
  }
  return found;
}

Expected<Ok> freeze(LanguageModel& model, const std::string& pattern) {
  std::regex expression;
  try {
    expression.assign(pattern);
  } catch (const std::regex_error&) {
    return invalid_input(fmt::format("'{}' is not a regular expression", pattern));
  }
  bool all = true;
  for (Module::Named& parameter : dotted_parameters(model)) {
    if (std::regex_search(parameter.name, expression)) {
      parameter.tensor.set_requires_grad(false);
    }
    all = all && !parameter.tensor.requires_grad();
  }
  return all ? Expected<Ok>{invalid_input(
                   fmt::format("'{}' freezes every parameter: nothing trains", pattern))}
             : Expected<Ok>{Ok{}};
}

}  // namespace

Expected<Ok> prepare_finetuning(LanguageModel& model, const RunSpec& spec) {
  if (spec.fused_loss == FusedLoss::liger && !model.fuse_loss()) {
    return Error{.code = ErrorCode::unsupported,
                 .message = "the fused loss is modelled for decoders with a causal LM head"};
  }
  if (spec.quantize == Quantize::nf4) {
    quantise(model, spec.double_quant);
  }
  if (spec.quantize != Quantize::none || spec.lora.rank > 0) {
    for (Tensor& parameter : model.parameters()) {
      parameter.set_requires_grad(false);
    }
  }
  if (spec.lora.rank > 0) {
    if (const auto done = adapt(model, spec.lora); !done) {
      return done.error();
    }
    Module* const embeddings = model.input_embeddings();
    if (spec.checkpoint != Checkpoint::none && embeddings != nullptr) {
      // enable_input_require_grads()
      embeddings->hooks.emplace_back(
          [](Module&, TensorList& outputs) { outputs.front().set_requires_grad(true); });
    }
  }
  return spec.freeze.empty() ? Expected<Ok>{Ok{}} : freeze(model, spec.freeze);
}

TensorList trainable(const TensorList& parameters) {
  TensorList found;
  std::copy_if(parameters.begin(), parameters.end(), std::back_inserter(found),
               [](const Tensor& parameter) { return parameter.requires_grad(); });
  return found;
}

}  // namespace peakcast::models
