#include "workloads/generate.hpp"

#include <optional>
#include <utility>

#include <fmt/format.h>

#include "sim/device/gpu_description.hpp"
#include "workloads/family.hpp"
#include "workloads/models/finetuning.hpp"
#include "workloads/models/language_model.hpp"
#include "workloads/parallel/data_parallel.hpp"
#include "workloads/torch/optim.hpp"

namespace peakcast {
namespace {

using models::Batch;
using models::LanguageModel;
using models::ModelOutput;
using torch::Dtype;
using torch::Runtime;
using torch::Tensor;

/// torch.autocast where the precision asks for it, for as long as the result lives.
std::unique_ptr<torch::AutocastScope> autocast_of(Precision precision) {
  if (precision != Precision::bf16_amp && precision != Precision::fp16_amp) {
    return nullptr;
  }
  return std::make_unique<torch::AutocastScope>(
      true, precision == Precision::bf16_amp ? Dtype::bfloat16 : Dtype::float16);
}

/// The recorded loop (a hand-written training script) around a model.
class Trainer {
 public:
  Trainer(const RunSpec& spec, LanguageModel& model) : spec_{spec}, model_{model} {}

  [[nodiscard]] Expected<Ok> run() {
    Runtime& runtime = Runtime::current();
    runtime.mark(MarkKind::phase, "to_device");
    if (spec_.precision == Precision::bf16 || spec_.precision == Precision::fp16) {
      const Dtype dtype = spec_.precision == Precision::bf16 ? Dtype::bfloat16 : Dtype::float16;
      if (is_zero(spec_.parallel)) {
        model_.parameters_to(dtype);  // DeepSpeed's engine leaves buffers as they are
      } else {
        model_.to(dtype);
      }
    }
    if (const auto ready = models::prepare_finetuning(model_, spec_); !ready) {
      return ready.error();
    }
    parallel_ = torch::make_data_parallel(spec_, model_);
    engine_ = parallel_ && parallel_->is_engine();
    if (!parallel_) {
      model_.to_cuda();
    }
    if (spec_.checkpoint != Checkpoint::none) {
      model_.enable_checkpointing(spec_.checkpoint);
    }
    runtime.mark(MarkKind::phase, "optimizer");
    optimizer_ =
        parallel_ ? parallel_->optimizer(spec_.optimizer)
                  : torch::make_optimizer(spec_.optimizer, models::trainable(model_.parameters()));
    if (spec_.precision == Precision::fp16_amp) {
      scaler_.emplace();
    }
    runtime.dispatch_mode = spec_.dispatch_mode;
    for (std::int64_t i = 0; i < spec_.iterations; ++i) {
      runtime.mark(MarkKind::iteration, fmt::format("iter{}", i));
      iteration(i);
    }
    runtime.mark(MarkKind::phase, "end");
    return Ok{};  // The process ends with everything alive: nothing more is freed.
  }

 private:
  void iteration(std::int64_t i) {
    Runtime& runtime = Runtime::current();
    if (parallel_) {
      parallel_->begin_iteration();
    }
    if (spec_.zero_grad == ZeroGrad::before) {
      runtime.mark(MarkKind::phase, "zero_grad");
      optimizer_->zero_grad();
    }
    const BatchShape shape = spec_.shapes[static_cast<std::size_t>(i) % spec_.shapes.size()];
    for (std::int64_t k = 0; k < spec_.accumulate; ++k) {
      runtime.mark(MarkKind::phase, "data");
      load(shape);
      runtime.mark(MarkKind::phase, "forward");
      forward();
      runtime.mark(MarkKind::phase, "backward");
      if (scaler_) {
        torch::backward(scaler_->scale(loss_));
      } else if (parallel_) {
        parallel_->backward(loss_);
      } else {
        torch::backward(loss_);
      }
    }
    runtime.mark(MarkKind::phase, "step");
    if (spec_.clip_grad && !engine_) {
      if (scaler_) {
        scaler_->unscale(*optimizer_);
      }
      static_cast<void>(
          torch::clip_grad_norm(parallel_ ? parallel_->parameters() : model_.parameters()));
    }
    if (scaler_) {
      scaler_->step(*optimizer_);
      scaler_->update();
    } else {
      optimizer_->step();
    }
    if (spec_.zero_grad == ZeroGrad::after) {
      optimizer_->zero_grad();
    }
    runtime.synchronize();
  }

  /// data = {k: v.to("cuda") ...}: the new batch is on the device before the old one goes.
  void load(const BatchShape& shape) {
    Batch fresh;
    for (const LanguageModel::InputSpec& input : model_.inputs(shape)) {
      if (input.name == "token_type_ids" && !spec_.token_types) {
        continue;
      }
      fresh.items.push_back(
          {input.name,
           torch::to_device(torch::host_tensor(input.sizes, input.dtype), Category::input)});
    }
    for (Batch::Item& item : data_.items) {
      item.tensor.reset();
    }
    data_ = std::move(fresh);
  }

  /// out = model(**data); loss = out.loss, in autocast where asked for.
  void forward() {
    auto autocast = autocast_of(spec_.precision);
    if (parallel_) {
      parallel_->before_forward();
    }
    ModelOutput fresh = model_(data_);
    out_.loss.reset();
    out_.aux_loss.reset();
    out_.logits.reset();
    for (Tensor& other : out_.others) {
      other.reset();
    }
    out_ = std::move(fresh);
    loss_ = out_.loss;
    autocast.reset();
    if (spec_.accumulate > 1 && !engine_) {
      loss_ = loss_ / static_cast<double>(spec_.accumulate);
    }
  }

  const RunSpec& spec_;
  LanguageModel& model_;
  std::unique_ptr<torch::DataParallel> parallel_{};
  std::unique_ptr<torch::Optimizer> optimizer_{};
  std::optional<torch::GradScaler> scaler_{};
  Batch data_{};
  ModelOutput out_{};
  Tensor loss_{};
  bool engine_{};  ///< DeepSpeed's: scales the loss and clips by itself
};

/// Flags that only the run's own PyTorch program works out.
Expected<Ok> check_modelled(const RunSpec& spec) {
  const auto missing = [](std::string_view what) {
    return Error{.code = ErrorCode::unsupported,
                 .message = fmt::format("{} is not modelled natively", what)};
  };
  if (spec.checkpoint == Checkpoint::every || spec.checkpoint == Checkpoint::selective) {
    return missing("checkpointing of some layers or operators");
  }
  if (spec.optimizer == OptimizerKind::lion || spec.optimizer == OptimizerKind::muon) {
    return missing("this optimizer");
  }
  if (spec.quantize == Quantize::int8) {
    return missing("quantize int8");
  }
  return Ok{};
}

Expected<GpuTraits> traits_of_card(const std::string& name) {
  const auto gpu = load_gpu_description(name);
  if (!gpu) {
    return gpu.error();
  }
  return traits_of(gpu.value());
}

Expected<Ok> check_spec(const RunSpec& spec) {
  if (const auto modelled = check_modelled(spec); !modelled) {
    return modelled.error();
  }
  if (spec.shapes.empty()) {
    return invalid_input("a run needs at least one batch shape");
  }
  for (const BatchShape& shape : spec.shapes) {
    if (shape.batch < 1 || shape.seq < 1) {
      return invalid_input("batch and sequence length are at least 1");
    }
  }
  if (spec.parallel == Parallel::fsdp1 && spec.checkpoint == Checkpoint::full_reentrant) {
    return Error{.code = ErrorCode::unsupported,
                 .message = "reentrant checkpointing under FSDP1 is not modelled; full is"};
  }
  if (spec.parallel == Parallel::fsdp1 && spec.shard == Shard::hybrid &&
      spec.world > torch::kCardsPerNode && spec.world % torch::kCardsPerNode != 0) {
    return invalid_input("hybrid sharding needs whole nodes: a multiple of 8 ranks");
  }
  if (is_zero(spec.parallel) && spec.precision == Precision::fp16_amp) {
    return Error{
        .code = ErrorCode::unsupported,
        .message = "precision fp16-amp under ZeRO is not modelled; bf16-amp, fp16 and bf16 are"};
  }
  if (spec.parallel == Parallel::zero3 && spec.checkpoint == Checkpoint::full_reentrant) {
    return Error{.code = ErrorCode::unsupported,
                 .message = "checkpoint full-reentrant under ZeRO-3 is not modelled; full is"};
  }
  if (spec.parallel != Parallel::none &&
      (spec.lora.rank > 0 || !spec.freeze.empty() || spec.quantize != Quantize::none)) {
    return Error{.code = ErrorCode::unsupported,
                 .message =
                     "LoRA, frozen parameters and 4-bit weights spread over ranks are not "
                     "modelled; one rank is"};
  }
  if (spec.fused_loss != FusedLoss::none &&
      (spec.precision == Precision::bf16_amp || spec.precision == Precision::fp16_amp)) {
    return Error{.code = ErrorCode::unsupported,
                 .message =
                     "the fused loss under autocast is not modelled; bf16, fp16 and fp32 "
                     "parameters are"};
  }
  if (spec.world < 1 || spec.rank < 0 || spec.rank >= spec.world) {
    return invalid_input("the rank is at least 0 and below the number of ranks");
  }
  if (spec.iterations < 1 || spec.accumulate < 1) {
    return invalid_input("iterations and accumulation steps are at least 1");
  }
  return Ok{};
}

}  // namespace

Expected<Program> generate(const RunSpec& spec, const GenerateOptions& options) {
  auto config = load_model_config(spec.model, spec.overrides, spec.task);
  if (!config) {
    return config.error();
  }
  return generate(spec, *config, options);
}

Expected<Program> generate(const RunSpec& spec, const ModelConfig& config,
                           const GenerateOptions& options) {
  if (const auto valid = check_spec(spec); !valid) {
    return valid.error();
  }
  Program program;
  program.source = config.name;
  const auto gpu = options.gpu ? Expected<GpuTraits>{*options.gpu} : traits_of_card(spec.gpu);
  if (!gpu) {
    return gpu.error();
  }
  Runtime runtime{program, {gpu.value(), options.cost_model, false}};
  const torch::RuntimeScope scope{runtime};
  const auto model = config.family->make(config, spec.attention);
  model->target_seq = spec.target_seq;
  Trainer trainer{spec, *model};
  if (const auto done = trainer.run(); !done) {
    return done.error();
  }
  runtime.end();
  program.used = runtime.libraries.used();
  return program;
}

Expected<std::unique_ptr<torch::OpGraph>> forward_graph(const RunSpec& spec) {
  if (const auto valid = check_spec(spec); !valid) {
    return valid.error();
  }
  auto config = load_model_config(spec.model, spec.overrides, spec.task);
  if (!config) {
    return config.error();
  }
  const auto gpu = traits_of_card(spec.gpu);
  if (!gpu) {
    return gpu.error();
  }
  Trace trace;
  Runtime runtime{trace, {gpu.value(), nullptr, true}};
  const torch::RuntimeScope scope{runtime};
  const auto model = config->family->make(*config, spec.attention);
  model->target_seq = spec.target_seq;
  if (spec.precision == Precision::bf16 || spec.precision == Precision::fp16) {
    model->to(spec.precision == Precision::bf16 ? Dtype::bfloat16 : Dtype::float16);
  }
  model->to_cuda();
  Batch batch;
  for (const LanguageModel::InputSpec& input : model->inputs(spec.shapes.front())) {
    batch.items.push_back(
        {input.name,
         torch::to_device(torch::host_tensor(input.sizes, input.dtype), Category::input)});
  }
  const auto autocast = autocast_of(spec.precision);
  const ModelOutput out = model->call(batch);
  runtime.end();
  return runtime.take_graph();
}

}  // namespace peakcast
