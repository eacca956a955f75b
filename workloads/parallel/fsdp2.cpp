#include "workloads/parallel/fsdp2.hpp"

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <unordered_set>

namespace peakcast::torch {
namespace {

enum class State : std::uint8_t { idle, forward, pre_backward, post_backward };

std::optional<Dtype> dtype_of(ShardPrecision precision) {
  switch (precision) {
    case ShardPrecision::same:
      return std::nullopt;
    case ShardPrecision::bf16:
      return Dtype::bfloat16;
    case ShardPrecision::fp16:
      return Dtype::float16;
    case ShardPrecision::fp32:
      return Dtype::float32;
  }
  return std::nullopt;
}

constexpr std::int64_t kBlockThreads = 128;
constexpr std::int64_t kBytesPerThread = 16;
constexpr std::int64_t kBlockBytes = kBlockThreads * kBytesPerThread;
constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// FSDPParam: one parameter, cut along its first dimension.
struct Shard1 {
  Tensor slot{};    ///< what the modules use: the unsharded parameter, a leaf
  Tensor shard{};   ///< what the optimizer uses
  Tensor padded{};  ///< this rank's rows and their padding, flat: owns the shard's storage
  Tensor full{};    ///< all-gather output: all ranks' padded rows, flat; storage comes and goes
  Shape sizes{};
  Shape shard_sizes{};
  std::int64_t padded_elements{};  ///< of one rank
};

/// FSDPParamGroup: what one fully_shard() call manages.
struct Group {
  Module* module{};
  bool root{};
  bool reshard_after_forward{};
  std::vector<Shard1> parameters{};
  Dtype dtype{};
  Dtype compute_dtype{};
  Dtype reduce_dtype{};
  State state{};
  bool unsharded{};
  std::vector<std::int64_t> post_forward_indices{};
  std::optional<std::uint32_t> post_reduce_event{};
  struct Gathered {
    Tensor output{};
    std::uint32_t event{};
  };
  std::optional<Gathered> gathered{};

  [[nodiscard]] bool mixed() const { return compute_dtype != dtype; }
};

class Fsdp2;

/// RegisterPostBackwardFunction: passes a layer's inputs through, and runs the group's
/// post-backward once their gradients are there.
class PostBackward final : public Node {
 public:
  explicit PostBackward(std::function<void()> run) : run_{std::move(run)} {}
  [[nodiscard]] const char* name() const override { return "RegisterPostBackwardFunction"; }
  [[nodiscard]] TensorList apply(TensorList& grads) override {
    run_();
    return std::move(grads);
  }

 private:
  std::function<void()> run_;
};

class Fsdp2 final : public DataParallel {
 public:
  Fsdp2(const RunSpec& spec, Module& model);
  [[nodiscard]] TensorList parameters() override { return parameters_; }
  void set_gradient_sync(bool on) override { sync_ = on; }

 private:
  void wrap(Module& module, bool root);
  void lazy_init();
  void unshard(Group& group);
  void wait_for_unshard(Group& group);
  void reshard(Group& group);
  void pre_forward(Group& group, std::vector<Tensor*>& arguments);
  void post_forward(Group& group, TensorList& outputs);
  void pre_backward(Group& group);
  void post_backward(Group& group);
  void reduce(Group& group, std::vector<Shard1*>& with_grad, TensorList& gradients);
  void final_callback();
  void gather_streams_wait(std::uint32_t event);

  Module& model_;
  std::int64_t ranks_{};
  std::int64_t rank_{};
  bool reshard_{};
  bool sync_{true};
  std::optional<Dtype> param_dtype_{};
  std::optional<Dtype> reduce_dtype_{};
  std::vector<std::unique_ptr<Group>> groups_{};
  std::vector<Group*> all_{};                             ///< in the order of the modules
  std::unordered_map<const Module*, Group*> group_of_{};  // never iterated
  std::unordered_set<const TensorImpl*> managed_{};       // never iterated
  TensorList parameters_{};
  bool initialised_{};
  bool in_forward_{};
  bool callback_queued_{};
  StreamId copy_in_stream_{};
  StreamId all_gather_stream_{};
  StreamId reduce_scatter_stream_{};
  std::vector<Group*> post_forward_order_{};
  /// The previous all-gather's output, kept until the next group's copy-out has been issued.
  std::optional<Group::Gathered> held_gather_{};
  /// The previous reduce-scatter's input.
  struct HeldReduce {
    Tensor input{};
    std::uint32_t event{};
  };
  std::optional<HeldReduce> held_reduce_{};
};

Fsdp2::Fsdp2(const RunSpec& spec, Module& model)
    : model_{model},
      ranks_{spec.world},
      rank_{spec.rank},
      reshard_{spec.reshard_after_forward},
      param_dtype_{dtype_of(spec.shard_precision)},
      reduce_dtype_{dtype_of(spec.reduce_precision)} {
  const TensorList before = model.parameters();
  for (Module* module : model.modules()) {
    if (module != &model && module->is_transformer_layer()) {
      wrap(*module, false);
    }
  }
  wrap(model, true);
  std::unordered_map<const TensorImpl*, Tensor> shards;  // never iterated
  for (const auto& group : groups_) {
    for (const Shard1& parameter : group->parameters) {
      shards.emplace(parameter.slot.impl(), parameter.shard);
    }
  }
  for (const Tensor& parameter : before) {
    parameters_.push_back(shards.at(parameter.impl()));
  }
}

void Fsdp2::wrap(Module& module, bool root) {
  const GradMode no_grad{false};
  groups_.push_back(std::make_unique<Group>());
  Group& group = *groups_.back();
  group.module = &module;
  group.root = root;
  group.reshard_after_forward = reshard_;
  group_of_.emplace(&module, &group);
  TensorList parameters;
  TensorList buffers;
  // _get_managed_modules: depth first, a module after its children, nothing below another group.
  const auto visit = [&](const auto& self, Module& current) -> void {
    for (const Module::Child& child : current.children) {
      if (!group_of_.contains(child.module)) {
        self(self, *child.module);
      }
    }
    for (const Module::Named& parameter : current.own_parameters) {
      if (managed_.insert(parameter.tensor.impl()).second) {
        parameters.push_back(parameter.tensor);
      }
    }
    for (const Module::Named& buffer : current.own_buffers) {
      buffers.push_back(buffer.tensor);
    }
  };
  visit(visit, module);
  {
    const OpScope scope{"fsdp2.move"};
    for (Tensor& parameter : parameters) {
      if (parameter.device() == Device::cpu) {
        parameter.set_data(to_device(parameter, Category::parameter));
      }
    }
    for (Tensor& buffer : buffers) {
      if (buffer.device() == Device::cpu) {
        buffer.set_data(to_device(buffer, Category::parameter));
      }
    }
  }
  check(!parameters.empty(), "a wrapped module has parameters");
  group.dtype = parameters.front().dtype();
  group.compute_dtype = param_dtype_.value_or(group.dtype);
  group.reduce_dtype = reduce_dtype_.value_or(group.compute_dtype);
  const OpScope scope{"fsdp2.shard"};
  for (const Tensor& parameter : parameters) {
    Shard1 shard;
    shard.slot = parameter;
    shard.sizes = parameter.sizes();
    const std::int64_t rows = shard.sizes[0];
    const std::int64_t row = rows == 0 ? 1 : parameter.numel() / rows;
    const Chunk chunk = chunk_of(rows, ranks_, rank_);
    shard.padded_elements = chunk.padded * row;
    shard.padded = empty({shard.padded_elements}, group.dtype, Category::parameter);  // new_zeros
    Runtime::current().libraries.use_kernels();
    in_place("copy_", shard.padded, {&parameter});
    shard.shard_sizes = shard.sizes;
    shard.shard_sizes[0] = chunk.length;
    shard.shard = shard.padded.slice(0, 0, chunk.length * row).view(shard.shard_sizes).detach();
    shard.shard.set_requires_grad(true);
    group.parameters.push_back(std::move(shard));
  }
  // The full parameters go when the call returns, in the order of module.parameters() (recorded).
  std::unordered_map<const TensorImpl*, Shard1*> shard_of;  // never iterated
  for (Shard1& shard : group.parameters) {
    shard_of.emplace(shard.slot.impl(), &shard);
  }
  for (Tensor& parameter : module.parameters()) {
    if (const auto found = shard_of.find(parameter.impl()); found != shard_of.end()) {
      parameter.set_data(found->second->shard);
    }
  }
  module.pre_hooks.push_back(
      [this, &group](Module&, std::vector<Tensor*>& arguments) { pre_forward(group, arguments); });
  module.hooks.push_back(
      [this, &group](Module&, TensorList& outputs) { post_forward(group, outputs); });
}

void Fsdp2::lazy_init() {
  initialised_ = true;
  Runtime& runtime = Runtime::current();
  copy_in_stream_ = runtime.make_stream();
  all_gather_stream_ = runtime.make_stream();
  reduce_scatter_stream_ = runtime.make_stream();
  for (Module* module : model_.modules()) {
    if (const auto found = group_of_.find(module); found != group_of_.end()) {
      all_.push_back(found->second);
    }
  }
}

void Fsdp2::unshard(Group& group) {
  if (group.gathered || group.unsharded) {
    return;
  }
  Runtime& runtime = Runtime::current();
  const GradMode no_grad{false};
  std::int64_t elements = 0;
  for (const Shard1& parameter : group.parameters) {
    elements += parameter.padded_elements;
  }
  if (ranks_ == 1) {
    group.gathered = Group::Gathered{.output = {}, .event = runtime.record_event(runtime.stream)};
    return;
  }
  Group::Gathered gathered;
  {
    const StreamGuard on{copy_in_stream_};
    const OpScope scope{"fsdp2.all_gather_copy_in"};
    Tensor cast;
    if (group.mixed()) {
      cast = empty({elements}, group.compute_dtype, Category::communication);
      for (const Shard1& parameter : group.parameters) {
        in_place("copy_", cast.slice(0, 0, parameter.padded_elements), {&parameter.padded});
      }
    }
    gathered.output = empty({elements * ranks_}, group.compute_dtype, Category::communication);
    in_place("copy_", gathered.output.slice(0, 0, elements));
  }
  wait_stream(all_gather_stream_, copy_in_stream_);
  {
    const StreamGuard on{all_gather_stream_};
    const OpScope scope{"fsdp2.all_gather"};
    runtime.collective({.kind = CollectiveCost::Kind::all_gather,
                        .world = ranks_,
                        .bytes = gathered.output.nbytes().count()});
    gathered.event = runtime.record_event(all_gather_stream_);
  }
  group.gathered = std::move(gathered);
}

void Fsdp2::gather_streams_wait(std::uint32_t event) {
  Runtime::current().wait_event(copy_in_stream_, event);
  Runtime::current().wait_event(all_gather_stream_, event);
}

void Fsdp2::wait_for_unshard(Group& group) {
  if (!group.gathered) {
    return;
  }
  Runtime& runtime = Runtime::current();
  const GradMode no_grad{false};
  const OpScope scope{"fsdp2.all_gather_copy_out"};
  std::optional<Group::Gathered> previous;  // a local name, so it lives until the end
  if (group.state == State::forward && held_gather_) {
    gather_streams_wait(held_gather_->event);
    previous = std::exchange(held_gather_, std::nullopt);
  }
  runtime.wait_event(runtime.stream, group.gathered->event);
  std::vector<std::int64_t> piece_bytes;
  for (Shard1& parameter : group.parameters) {
    const Bytes size{parameter.padded_elements * ranks_ * element_size(group.compute_dtype)};
    if (!parameter.full.defined()) {
      parameter.full =
          empty({parameter.padded_elements * ranks_}, group.compute_dtype, Category::parameter);
    } else {
      parameter.full.storage()->resize(size);
    }
    piece_bytes.push_back(parameter.padded_elements * element_size(group.compute_dtype));
  }
  if (ranks_ > 1) {
    const Tensor index{empty(
        {split_copy_index_bytes(piece_bytes, ranks_, runtime.gpu()).count() / 8}, Dtype::int64)};
    runtime.launch({.kind = KernelCost::Kind::copy,
                    .dtype = group.compute_dtype,
                    .bytes = 2 * group.gathered->output.nbytes().count()});
  }
  runtime.host_work(HostWork::shard_view, static_cast<std::int64_t>(group.parameters.size()));
  for (Shard1& parameter : group.parameters) {
    if (ranks_ == 1) {
      in_place("copy_", parameter.full, {&parameter.padded});
    }
    // The module's handle stands for the unsharded parameter, a leaf of its own.
    std::int64_t full_elements = parameter.sizes.numel();
    parameter.slot.set_data(parameter.full.slice(0, 0, full_elements).view(parameter.sizes));
  }
  group.unsharded = true;
  const std::uint32_t copied = runtime.record_event(runtime.stream);
  if (group.state == State::forward && ranks_ > 1) {
    // The next all-gather may overlap this copy-out: its output dies after that one's.
    held_gather_ = Group::Gathered{.output = std::move(group.gathered->output), .event = copied};
  } else {
    gather_streams_wait(copied);
  }
  group.gathered.reset();
}

void Fsdp2::reshard(Group& group) {
  if (group.state == State::forward && !group.reshard_after_forward) {
    return;
  }
  if (!group.unsharded) {
    return;
  }
  const OpScope scope{"fsdp2.reshard"};
  for (Shard1& parameter : group.parameters) {
    parameter.full.storage()->resize(Bytes{});
  }
  group.unsharded = false;
}

void Fsdp2::pre_forward(Group& group, std::vector<Tensor*>& arguments) {
  Runtime::current().host_work(HostWork::shard_hook);
  Runtime& runtime = Runtime::current();
  if (group.state == State::pre_backward) {
    // A checkpoint's second forward.
    if (!group.unsharded) {
      unshard(group);
      wait_for_unshard(group);
    }
    return;
  }
  if (group.root && !in_forward_) {
    if (!initialised_) {
      lazy_init();
    }
    in_forward_ = true;
    wait_stream(copy_in_stream_, runtime.stream);
    wait_stream(all_gather_stream_, runtime.stream);
  }
  if (param_dtype_) {
    const OpScope scope{"fsdp2.cast_inputs"};
    for (Tensor* argument : arguments) {
      if (is_floating(argument->dtype()) && argument->dtype() != *param_dtype_) {
        *argument = argument->to(*param_dtype_);
      }
    }
  }
  group.state = State::forward;
  unshard(group);
  wait_for_unshard(group);
  if (!runtime.grad_enabled) {
    return;
  }
  // The arguments that need a gradient pass through one node together.
  std::vector<Tensor*> inputs;
  for (Tensor* argument : arguments) {
    if (argument->requires_grad()) {
      inputs.push_back(argument);
    }
  }
  if (inputs.empty()) {
    return;
  }
  Ref<PostBackward> node{new PostBackward{[this, &group] { post_backward(group); }}};
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
}

void Fsdp2::post_forward(Group& group, TensorList& outputs) {
  Runtime::current().host_work(HostWork::shard_hook);
  if (group.state == State::pre_backward) {
    return;
  }
  if (!Runtime::current().engine().running()) {
    reshard(group);
    group.post_forward_indices.push_back(static_cast<std::int64_t>(post_forward_order_.size()));
    post_forward_order_.push_back(&group);
  }
  group.state = State::idle;
  if (Runtime::current().grad_enabled) {
    for (const Tensor& output : outputs) {
      if (output.defined() && output.requires_grad()) {
        register_hook(output, [this, &group](const Tensor& grad) {
          pre_backward(group);
          return grad;
        });
      }
    }
  }
  if (group.root && in_forward_) {
    if (held_gather_) {
      gather_streams_wait(held_gather_->event);
      held_gather_.reset();
    }
    in_forward_ = false;
  }
}

void Fsdp2::pre_backward(Group& group) {
  Runtime::current().host_work(HostWork::shard_hook);
  if (!callback_queued_) {
    callback_queued_ = true;
    Runtime::current().engine().queue_callback([this] { final_callback(); });
  }
  if (group.state == State::pre_backward) {
    return;
  }
  group.state = State::pre_backward;
  unshard(group);
  wait_for_unshard(group);
  // Prefetches the group whose forward came before.
  if (group.post_forward_indices.empty()) {
    return;
  }
  const std::int64_t target = group.post_forward_indices.back() - 1;
  group.post_forward_indices.pop_back();
  if (target >= 0) {
    unshard(*post_forward_order_[static_cast<std::size_t>(target)]);
  }
}

void Fsdp2::post_backward(Group& group) {
  Runtime::current().host_work(HostWork::shard_hook);
  const GradMode no_grad{false};
  group.state = State::post_backward;
  if (!sync_) {
    reshard(group);
    return;
  }
  std::vector<Shard1*> with_grad;
  TensorList gradients;
  for (Shard1& parameter : group.parameters) {
    if (const Tensor grad = parameter.slot.grad(); grad.defined()) {
      with_grad.push_back(&parameter);
      gradients.push_back(grad);
      parameter.slot.set_grad({});
    }
  }
  reshard(group);
  if (with_grad.empty()) {
    return;
  }
  Runtime& runtime = Runtime::current();
  if (held_reduce_) {
    runtime.wait_event(runtime.stream, held_reduce_->event);
    held_reduce_.reset();
  }
  if (group.post_reduce_event) {
    runtime.wait_event(runtime.stream, *group.post_reduce_event);
    group.post_reduce_event.reset();
  }
  reduce(group, with_grad, gradients);
}

void Fsdp2::reduce(Group& group, std::vector<Shard1*>& with_grad, TensorList& gradients) {
  Runtime& runtime = Runtime::current();
  const OpScope scope{"fsdp2.reduce_scatter"};
  std::int64_t shard_elements = 0;
  std::vector<std::int64_t> chunk_bytes;
  for (const Shard1* parameter : with_grad) {
    shard_elements += parameter->padded_elements;
    chunk_bytes.push_back(parameter->padded_elements * element_size(group.reduce_dtype));
  }
  HeldReduce held;
  held.input = empty({shard_elements * ranks_}, group.reduce_dtype, Category::communication);
  {
    const Tensor index{empty({chunk_cat_index_bytes(chunk_bytes).count() / 8}, Dtype::int64)};
    runtime.launch({.kind = KernelCost::Kind::copy,
                    .dtype = group.reduce_dtype,
                    .bytes = held.input.nbytes().count() +
                             shard_elements * ranks_ * element_size(group.compute_dtype)});
  }
  // unsharded_grads.clear() lets go from the last to the first; a loop's name still holds the last
  // one until the function returns.
  const Tensor last = gradients.back();
  while (!gradients.empty()) {
    gradients.pop_back();
  }
  wait_stream(reduce_scatter_stream_, runtime.stream);
  {
    const StreamGuard on{reduce_scatter_stream_};
    Tensor output = empty({shard_elements}, group.reduce_dtype, Category::gradient);
    const bool overflow_risk = group.reduce_dtype == Dtype::float16;
    if (overflow_risk && ranks_ > 1) {
      in_place("div_", held.input);
    }
    if (ranks_ > 1) {
      runtime.collective({.kind = CollectiveCost::Kind::reduce_scatter,
                          .world = ranks_,
                          .bytes = held.input.nbytes().count()});
    } else {
      in_place("copy_", output, {&held.input});
    }
    held.event = runtime.record_event(reduce_scatter_stream_);
    if (overflow_risk && ranks_ > 2) {
      in_place("div_", output);
    }
    if (output.dtype() != group.dtype) {
      output = output.to(group.dtype);
      output.storage()->set_category(Category::gradient);
    }
    runtime.host_work(HostWork::shard_view, static_cast<std::int64_t>(with_grad.size()));
    std::int64_t at = 0;
    for (Shard1* parameter : with_grad) {
      const Tensor view = output.slice(0, at, at + parameter->shard_sizes.numel())
                              .view(parameter->shard_sizes)
                              .detach();
      if (const Tensor grad = parameter->shard.grad(); grad.defined()) {
        in_place("add_", grad, {&view});
      } else {
        parameter->shard.set_grad(view);
      }
      at += parameter->padded_elements;
    }
    group.post_reduce_event = runtime.record_event(reduce_scatter_stream_);
  }
  held_reduce_ = std::move(held);
}

void Fsdp2::final_callback() {
  const GradMode no_grad{false};
  Runtime& runtime = Runtime::current();
  for (Group* group : all_) {
    if (group->state != State::post_backward) {
      // No input of it needed a gradient, so no node ran it.
      post_backward(*group);
    }
    group->state = State::idle;
    if (group->post_reduce_event) {
      runtime.wait_event(runtime.stream, *group->post_reduce_event);
      group->post_reduce_event.reset();
    }
    if (group->gathered) {
      runtime.wait_event(runtime.stream, group->gathered->event);
      group->gathered.reset();
    }
    group->post_forward_indices.clear();
  }
  post_forward_order_.clear();
  if (held_reduce_) {
    runtime.wait_event(runtime.stream, held_reduce_->event);
    held_reduce_.reset();
  }
  callback_queued_ = false;
}

}  // namespace

Bytes split_copy_index_bytes(const std::vector<std::int64_t>& piece_bytes, std::int64_t ranks,
                             const GpuTraits& gpu) {
  const auto pieces = static_cast<std::int64_t>(piece_bytes.size());
  std::int64_t blocks = 0;
  for (const std::int64_t bytes : piece_bytes) {
    blocks += ceil_div(bytes, kBlockBytes);
  }
  // Twice as many threads as the card holds; beyond that a block takes several chunks and steps.
  const std::int64_t most =
      gpu.multiprocessors * gpu.threads_per_multiprocessor / kBlockThreads * 2;
  const std::int64_t factor = std::max<std::int64_t>(1, ceil_div(blocks * ranks, most));
  std::int64_t root = 0;  // ceil(sqrt(factor))
  while (root * root < factor) {
    ++root;
  }
  const std::int64_t steps = ceil_div(factor, std::min(root, ranks));
  std::int64_t entries = 4 * pieces + 1;
  for (const std::int64_t bytes : piece_bytes) {
    entries += ceil_div(bytes, kBlockBytes * steps);
  }
  return Bytes{8 * entries};
}

Bytes chunk_cat_index_bytes(const std::vector<std::int64_t>& chunk_bytes) {
  std::int64_t entries = 6 * static_cast<std::int64_t>(chunk_bytes.size()) + 2;
  for (const std::int64_t bytes : chunk_bytes) {
    entries += ceil_div(bytes, kBlockBytes);
  }
  return Bytes{8 * entries};
}

std::unique_ptr<DataParallel> make_fsdp2(const RunSpec& spec, Module& model) {
  return std::make_unique<Fsdp2>(spec, model);
}

}  // namespace peakcast::torch
