#include "workloads/parallel/zero.hpp"
#include "workloads/parallel/zero_step.hpp"

#include <algorithm>
#include <deque>
#include <unordered_map>
#include <utility>

namespace peakcast::torch {
namespace {
constexpr std::int64_t kPrefetch = 50'000'000;
constexpr std::int64_t kPersistence = 100'000;
constexpr std::int64_t kMaxLive = 1'000'000'000;
constexpr std::int64_t kReuseDistance = 1'000'000'000;
constexpr std::int64_t kSubGroup = 1'000'000'000;
constexpr std::size_t kFetchEvents = 2;

// -- stage 3 --------------------------------------------------------------------------------------

/// Passes a module's inputs through; its backward means that the module's is over.
class AfterBackward final : public Node {
 public:
  explicit AfterBackward(std::function<void()> run) : run_{std::move(run)} {}
  [[nodiscard]] const char* name() const override { return "PostBackwardFunction"; }
  [[nodiscard]] TensorList apply(TensorList& grads) override {
    run_();
    return std::move(grads);
  }

 private:
  std::function<void()> run_;
};

class Zero3 final : public DataParallel {
 public:
  Zero3(const RunSpec& spec, Module& model);
  [[nodiscard]] TensorList parameters() override { return parameters_; }
  [[nodiscard]] std::unique_ptr<Optimizer> optimizer(OptimizerKind kind) override;
  void before_forward() override;

 private:
  struct Parameter {
    Tensor slot{};
    Tensor full{};  ///< all ranks' shards, flat; storage comes and goes unless it persists
    Shape sizes{};
    std::int64_t elements{};
    std::int64_t shard{};  ///< elements of one rank
    bool persistent{};
    bool gathered{};
  };
  void hook(Module& module);
  void fetch(const std::vector<std::size_t>& wanted);
  void gather(Parameter& parameter);
  void release(const std::vector<std::size_t>& done);
  void ready(std::size_t parameter);
  void reduce_bucket();

  std::int64_t ranks_{};
  Dtype dtype_{};
  TensorList parameters_{};
  std::vector<Parameter> all_{};
  std::unordered_map<const TensorImpl*, std::size_t> index_of_{};  // never iterated
  std::vector<std::unique_ptr<std::vector<std::size_t>>> members_{};
  std::vector<Tensor> masters_{};
  Tensor shards_{};  ///< all parameters' shards
  Tensor grads_{};   ///< all gradients' shards
  Tensor bucket_{};
  std::int64_t in_bucket_{};
  std::int64_t live_{};
  StreamId gather_stream_{};
  StreamId reduce_stream_{};
  std::vector<Ref<AccumulateGrad>> accumulators_{};
  /// Parameters in the order of their use in one iteration, recorded in the first one.
  std::vector<std::size_t> order_{};
  std::size_t step_{};
  std::deque<std::uint32_t> fetch_events_{};
  std::int64_t iteration_{-1};
  bool callback_queued_{};
};

Zero3::Zero3(const RunSpec& spec, Module& model) : ranks_{spec.world} {
  const GradMode no_grad{false};
  Runtime& runtime = Runtime::current();
  gather_stream_ = runtime.make_stream();
  reduce_stream_ = runtime.make_stream();
  parameters_ = model.parameters();
  dtype_ = parameters_.front().dtype();
  for (Module* module : model.modules()) {
    for (Module::Named& buffer : module->own_buffers) {
      if (buffer.tensor.device() == Device::cpu) {
        buffer.tensor.set_data(to_device(buffer.tensor, Category::parameter));
      }
    }
  }
  // Parameters come to the card one by one, are cut, and the rest of each goes.
  std::int64_t shard_elements = 0;
  TensorList pieces;
  {
    const OpScope scope{"zero3.partition"};
    for (Tensor& tensor : parameters_) {
      Parameter parameter;
      parameter.slot = tensor;
      parameter.sizes = tensor.sizes();
      parameter.elements = tensor.numel();
      parameter.shard = chunk_of(parameter.elements, ranks_, 0).padded;
      parameter.persistent = parameter.elements < kPersistence;
      {
        const Tensor whole = to_device(tensor, Category::parameter);
        pieces.push_back(empty({parameter.shard}, dtype_, Category::parameter));
        in_place("copy_", pieces.back());
      }
      shard_elements += parameter.shard;
      index_of_.emplace(tensor.impl(), all_.size());
      all_.push_back(std::move(parameter));
    }
  }
  {
    const OpScope scope{"zero3.defragment"};
    shards_ = empty({shard_elements}, dtype_, Category::parameter);
    for (Tensor& piece : pieces) {
      piece.reset();
    }
    runtime.empty_cache();
  }
  grads_ = empty({shard_elements}, dtype_, Category::gradient);
  bucket_ = empty({kReduceBucket}, dtype_, Category::communication);
  {
    const OpScope scope{"zero3.fp32_partitions"};
    for (std::int64_t left = shard_elements; left > 0; left -= kSubGroup) {
      masters_.push_back(empty({std::min(left, kSubGroup)}, Dtype::float32, Category::optimizer));
      masters_.back().set_requires_grad(true);
    }
  }
  for (std::size_t i = 0; i < all_.size(); ++i) {
    Parameter& parameter = all_[i];
    // The leaf keeps its identity; its bytes are those of `full`.
    parameter.full = empty({parameter.shard * ranks_}, dtype_, Category::parameter);
    parameter.slot.set_data(parameter.full.slice(0, 0, parameter.elements).view(parameter.sizes));
    if (!parameter.persistent) {
      parameter.full.storage()->resize(Bytes{});
    } else {
      parameter.gathered = true;
    }
    accumulators_.push_back(grad_accumulator(parameter.slot));
    accumulators_.back()->post_hooks.emplace_back(
        [this, i](TensorList& /*outputs*/, const TensorList& /*inputs*/) { ready(i); });
  }
  for (Module* module : model.modules()) {
    hook(*module);
  }
}

void Zero3::hook(Module& module) {
  auto members = std::make_unique<std::vector<std::size_t>>();
  for (const Module::Named& parameter : module.own_parameters) {
    members->push_back(index_of_.at(parameter.tensor.impl()));
  }
  if (members->empty()) {
    return;
  }
  const std::vector<std::size_t>& own = *members;
  members_.push_back(std::move(members));
  module.pre_hooks.push_back([this, &own](Module&, std::vector<Tensor*>& arguments) {
    fetch(own);
    if (!Runtime::current().grad_enabled) {
      return;
    }
    std::vector<Tensor*> inputs;
    for (Tensor* argument : arguments) {
      if (argument->requires_grad()) {
        inputs.push_back(argument);
      }
    }
    if (inputs.empty()) {
      return;
    }
    Ref<AfterBackward> node{new AfterBackward{[this, &own] { release(own); }}};
    for (Tensor* input : inputs) {
      node->next.push_back(gradient_edge(*input));
    }
    for (Tensor* input : inputs) {
      Tensor view;
      {
        const GradMode no_grad{false};
        view = input->detach();
      }
      *input = with_history(std::move(view), node);
    }
  });
  module.hooks.push_back([this, &own](Module&, TensorList& outputs) {
    release(own);
    if (!Runtime::current().grad_enabled) {
      return;
    }
    for (const Tensor& output : outputs) {
      if (output.defined() && output.requires_grad()) {
        register_hook(output, [this, &own](const Tensor& grad) {
          fetch(own);
          return grad;
        });
      }
    }
  });
}

void Zero3::before_forward() {
  ++iteration_;
  step_ = 0;
}

void Zero3::gather(Parameter& parameter) {
  if (parameter.gathered) {
    return;
  }
  const GradMode no_grad{false};
  Runtime& runtime = Runtime::current();
  const StreamGuard on{gather_stream_};
  const OpScope scope{"zero3.all_gather"};
  parameter.full.storage()->resize(Bytes{parameter.shard * ranks_ * element_size(dtype_)});
  runtime.collective({.kind = CollectiveCost::Kind::all_gather,
                      .world = ranks_,
                      .bytes = parameter.full.nbytes().count()});
  parameter.gathered = true;
  live_ += parameter.elements;
}

/// Gathers what a module needs now and, once the order is known, what comes next: up to the
/// prefetch size, as long as not too many parameters live.
void Zero3::fetch(const std::vector<std::size_t>& wanted) {
  for (const std::size_t i : wanted) {
    gather(all_[i]);
    if (iteration_ == 0) {
      order_.push_back(i);
    }
    ++step_;
  }
  // __max_ongoing_fetch_events: the host does not run further ahead of the gathers.
  Runtime& runtime = Runtime::current();
  if (fetch_events_.size() > kFetchEvents) {
    runtime.host_wait(fetch_events_.front());
    fetch_events_.pop_front();
  }
  wait_stream(runtime.stream, gather_stream_);
  fetch_events_.push_back(runtime.record_event(gather_stream_));
  if (iteration_ == 0) {
    return;
  }
  std::int64_t ahead = 0;
  for (std::size_t at = step_; at < order_.size() && ahead < kPrefetch && live_ < kMaxLive; ++at) {
    Parameter& next = all_[order_[at]];
    if (!next.gathered) {
      gather(next);
      ahead += next.elements;
    }
  }
}

void Zero3::release(const std::vector<std::size_t>& done) {
  const OpScope scope{"zero3.release"};
  for (const std::size_t i : done) {
    Parameter& parameter = all_[i];
    if (parameter.persistent || !parameter.gathered) {
      continue;
    }
    if (iteration_ > 0) {
      // Kept when it is used again soon.
      std::int64_t distance = 0;
      bool soon = false;
      for (std::size_t at = step_; at < order_.size() && distance < kReuseDistance; ++at) {
        if (order_[at] == i) {
          soon = true;
          break;
        }
        distance += all_[order_[at]].elements;
      }
      if (soon) {
        continue;
      }
    }
    parameter.full.storage()->record_stream(Runtime::current().stream);
    parameter.full.storage()->resize(Bytes{});
    parameter.gathered = false;
    live_ -= parameter.elements;
  }
}

void Zero3::ready(std::size_t parameter) {
  const GradMode no_grad{false};
  Runtime& runtime = Runtime::current();
  const OpScope scope{"zero3.bucket"};
  if (!callback_queued_) {
    callback_queued_ = true;
    runtime.engine().queue_callback([this] {
      const GradMode off{false};
      reduce_bucket();
      wait_stream(Runtime::current().stream, reduce_stream_);
      for (std::size_t i = 0; i < all_.size(); ++i) {
        release({i});  // what no node released: modules whose inputs need no gradient
      }
      callback_queued_ = false;
    });
  }
  Tensor& slot = all_[parameter].slot;
  const std::int64_t length = all_[parameter].elements;
  if (in_bucket_ + length > kReduceBucket) {
    reduce_bucket();
  }
  wait_stream(reduce_stream_, runtime.stream);
  const StreamGuard on{reduce_stream_};
  const Tensor computed = slot.grad();
  if (length <= kReduceBucket) {
    in_place("copy_", bucket_.slice(0, in_bucket_, in_bucket_ + length), {&computed});
  }
  computed.record_stream(reduce_stream_);
  slot.set_grad({});
  in_bucket_ += length;
}

void Zero3::reduce_bucket() {
  if (in_bucket_ == 0) {
    return;
  }
  const StreamGuard on{reduce_stream_};
  Runtime::current().collective({.kind = CollectiveCost::Kind::reduce_scatter,
                                 .world = ranks_,
                                 .bytes = in_bucket_ * element_size(dtype_)});
  in_place("add_", grads_);
  in_bucket_ = 0;
}

std::unique_ptr<Optimizer> Zero3::optimizer(OptimizerKind kind) {
  // State exists before the first step: one step with zero gradients, sub-group by sub-group.
  auto inner = std::make_shared<std::vector<std::unique_ptr<Optimizer>>>();
  const GradMode no_grad{false};
  {
    const OpScope scope{"zero3.initialize_optimizer_states"};
    const Tensor zeros = empty({masters_.front().numel()}, Dtype::float32);
    for (Tensor& master : masters_) {
      inner->push_back(make_optimizer(kind, {master}));
      master.set_grad(zeros.slice(0, 0, master.numel()));
      inner->back()->step();
      master.set_grad({});
    }
  }
  const auto before = [this, inner] {
    const OpScope scope{"zero3.step"};
    for (std::size_t i = 0; i < masters_.size(); ++i) {
      Tensor grad = empty({masters_[i].numel()}, Dtype::float32, Category::gradient);
      in_place("copy_", grad);
      masters_[i].set_grad(grad);
      grad.reset();
      (*inner)[i]->step();
      masters_[i].set_grad({});
      in_place("copy_", shards_, {&masters_[i]});
    }
    // Parameters that persist are gathered again.
    std::int64_t bytes = 0;
    for (const Parameter& parameter : all_) {
      bytes += parameter.persistent ? parameter.elements * element_size(dtype_) : 0;
    }
    Runtime::current().collective(
        {.kind = CollectiveCost::Kind::all_gather, .world = ranks_, .bytes = bytes});
  };
  return std::make_unique<ZeroOptimizer>(parameters_, before);
}

}  // namespace

std::unique_ptr<DataParallel> make_zero3(const RunSpec& spec, Module& model) {
  return std::make_unique<Zero3>(spec, model);
}

}  // namespace peakcast::torch
