#include "workloads/parallel/fsdp1.hpp"

#include <algorithm>
#include <deque>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "workloads/parallel/flat_parameter.hpp"

namespace peakcast::torch {
namespace {

/// Of a unit (HandleTrainingState).
enum class State : std::uint8_t { idle, forward, backward_pre, backward_post };

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

/// One wrapped module: its flat parameter, and where it is in the iteration.
struct Unit : FlatParameter {
  using FlatParameter::FlatParameter;
  bool root{};
  Tensor unsharded_for_skipped{};  ///< the views of the forward are still in use
  Ref<AccumulateGrad> accumulator{};
  std::int64_t pre_forward_index{-1};
  std::int64_t post_forward_index{-1};
  State state{};
  bool needs_pre_forward_unshard{};
  bool needs_pre_backward_unshard{};
  bool prefetched{};
  bool ran_pre_backward{};
  bool post_backward_called{};
};

class Fsdp1 final : public DataParallel {
 public:
  Fsdp1(const RunSpec& spec, Module& model);
  [[nodiscard]] TensorList parameters() override { return parameters_; }
  void set_gradient_sync(bool on) override { sync_ = on; }

 private:
  // Construction.
  void wrap(Module& module, bool root);
  void move_to_device(Module& module);
  void lazy_init();

  // Unsharding and resharding.
  void unshard(Unit& unit);
  void use_views(Unit& unit);
  void use_sharded_views(Unit& unit);
  void reshard(Unit& unit, bool free_full);
  void prefetch(Unit& unit);

  // Hooks.
  void root_pre_forward(std::vector<Tensor*>& arguments);
  void pre_forward(Unit& unit, std::vector<Tensor*>& arguments);
  void post_forward(Unit& unit, TensorList& outputs);
  void pre_backward(Unit& unit);
  void post_backward(Unit& unit);
  void reduce(Unit& unit, Tensor gradient);
  void final_callback();
  void prepare_gradient_for_backward(Unit& unit);
  void reset_gradients();
  void cast_inputs(std::vector<Tensor*>& arguments) const;

  [[nodiscard]] bool sharded() const { return layout_.sharded; }
  [[nodiscard]] bool reshards_after_forward() const {
    return strategy_ == Shard::full || strategy_ == Shard::hybrid;
  }
  void collective(CollectiveCost::Kind kind, std::int64_t world, const Tensor& full) const {
    Runtime::current().collective({.kind = kind, .world = world, .bytes = full.nbytes().count()});
  }

  Module& model_;
  Shard strategy_{};
  FlatLayout layout_{};
  std::int64_t replicas_{1};  ///< groups of such ranks (HYBRID_SHARD)
  Prefetch backward_prefetch_{};
  bool forward_prefetch_{};
  bool limit_all_gathers_{};
  bool sync_{true};

  std::vector<std::unique_ptr<Unit>> units_{};  ///< in the order of wrapping: the root is last
  std::vector<Unit*> all_{};                    ///< the root first, then by module
  std::unordered_map<const Module*, Unit*> unit_of_{};  // never iterated
  std::unordered_set<const TensorImpl*> managed_{};     // never iterated
  TensorList parameters_{};
  bool initialised_{};
  bool first_iteration_{true};
  bool callback_queued_{};
  StreamId compute_{};
  StreamId unshard_stream_{};
  StreamId post_backward_stream_{};
  StreamId pre_unshard_stream_{};
  StreamId all_reduce_stream_{};
  std::deque<std::uint32_t> free_events_{};
  std::vector<Unit*> pre_forward_order_{};
  std::vector<Unit*> post_forward_order_{};
};

Fsdp1::Fsdp1(const RunSpec& spec, Module& model)
    : model_{model},
      // With one rank FSDP itself switches to NO_SHARD.
      strategy_{spec.world == 1 ? Shard::none : spec.shard},
      layout_{.ranks = spec.world,
              .rank = spec.rank,
              .sharded = strategy_ != Shard::none,
              .param_dtype = dtype_of(spec.shard_precision),
              .reduce_dtype = dtype_of(spec.reduce_precision)},
      backward_prefetch_{spec.backward_prefetch},
      forward_prefetch_{spec.forward_prefetch},
      limit_all_gathers_{spec.limit_all_gathers} {
  if (strategy_ == Shard::hybrid && spec.world > kCardsPerNode) {
    layout_.ranks = kCardsPerNode;
    layout_.rank = spec.rank % kCardsPerNode;
    replicas_ = spec.world / kCardsPerNode;
  }
  const TensorList before = model.parameters();
  wrap(model, true);
  // model.parameters() now names the shards, in the same order.
  std::unordered_map<const TensorImpl*, Tensor> shards;
  for (const auto& unit : units_) {
    for (const Original& original : unit->originals) {
      shards.emplace(original.slot.impl(), original.shard);
    }
  }
  for (const Tensor& parameter : before) {
    parameters_.push_back(shards.at(parameter.impl()));
  }
}

/// Children first, as _recursive_wrap does; a layer is a unit, and what is left is the root's.
void Fsdp1::wrap(Module& module, bool root) {
  for (const Module::Child& child : module.children) {
    if (child.module->is_transformer_layer()) {
      wrap(*child.module, false);
    } else {
      // Layers may be further down (nn.ModuleList).
      for (Module* below : child.module->modules()) {
        if (below->is_transformer_layer() && !unit_of_.contains(below)) {
          wrap(*below, false);
        }
      }
    }
  }
  const GradMode no_grad{false};
  move_to_device(module);
  units_.push_back(std::make_unique<Unit>(
      module, layout_,
      [this](const Tensor& parameter) { return managed_.insert(parameter.impl()).second; },
      [this](const Module& child) { return unit_of_.contains(&child); }));
  Unit& unit = *units_.back();
  unit.root = root;
  unit_of_.emplace(&module, &unit);
  if (root) {
    module.pre_hooks.push_back(
        [this](Module&, std::vector<Tensor*>& arguments) { root_pre_forward(arguments); });
  }
  module.pre_hooks.push_back(
      [this, &unit](Module&, std::vector<Tensor*>& arguments) { pre_forward(unit, arguments); });
  module.hooks.push_back(
      [this, &unit](Module&, TensorList& outputs) { post_forward(unit, outputs); });
}

/// _move_module_to_device: breadth first over what is not wrapped yet, all parameters and then all
/// buffers.
void Fsdp1::move_to_device(Module& module) {
  TensorList parameters;
  TensorList buffers;
  std::deque<Module*> queue{&module};
  while (!queue.empty()) {
    Module* current = queue.front();
    queue.pop_front();
    for (const Module::Named& parameter : current->own_parameters) {
      parameters.push_back(parameter.tensor);
    }
    for (const Module::Named& buffer : current->own_buffers) {
      buffers.push_back(buffer.tensor);
    }
    for (const Module::Child& child : current->children) {
      if (!unit_of_.contains(child.module)) {
        queue.push_back(child.module);
      }
    }
  }
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

/// On the first call of the root: streams, and every unit's tensors for unsharding. They are made
/// and emptied at once.
void Fsdp1::lazy_init() {
  initialised_ = true;
  Runtime& runtime = Runtime::current();
  compute_ = runtime.stream;
  unshard_stream_ = runtime.make_stream();
  post_backward_stream_ = runtime.make_stream();
  pre_unshard_stream_ = runtime.make_stream();
  all_reduce_stream_ = replicas_ > 1 ? runtime.make_stream() : compute_;
  const GradMode no_grad{false};
  if (layout_.param_dtype) {
    // mixed_precision.buffer_dtype: floating buffers are cast for good.
    for (Module* module : model_.modules()) {
      for (Module::Named& buffer : module->own_buffers) {
        if (is_floating(buffer.tensor.dtype()) && buffer.tensor.dtype() != *layout_.param_dtype) {
          buffer.tensor.set_data(buffer.tensor.to(*layout_.param_dtype));
        }
      }
    }
  }
  for (Module* module : model_.modules()) {
    if (const auto found = unit_of_.find(module); found != unit_of_.end()) {
      all_.push_back(found->second);
    }
  }
  const OpScope scope{"fsdp.init_flat_param_attributes"};
  for (Unit* unit : all_) {
    unit->prepare();
  }
}

void Fsdp1::unshard(Unit& unit) {
  Runtime& runtime = Runtime::current();
  const GradMode no_grad{false};
  const std::int64_t local = unit.local_shard.numel();
  const bool needed = sharded() && !unit.unsharded();
  bool ran_pre_unshard = false;
  if (unit.mixed() && (needed || !sharded())) {
    const StreamGuard on{pre_unshard_stream_};
    const OpScope scope{"fsdp.pre_unshard"};
    unit.mp_shard.storage()->resize(Bytes{local * element_size(unit.compute_dtype)});
    in_place("copy_", unit.mp_shard, {&unit.local_shard});
    unit.flat.set_data(unit.mp_shard);
    ran_pre_unshard = true;
  }
  if (ran_pre_unshard) {
    wait_stream(unshard_stream_, pre_unshard_stream_);
  }
  if (limit_all_gathers_ && free_events_.size() >= 2) {
    runtime.host_wait(free_events_.front());
    free_events_.pop_front();
  }
  const StreamGuard on{unshard_stream_};
  const OpScope scope{"fsdp.all_gather"};
  if (needed) {
    unit.full.storage()->resize(Bytes{local * layout_.ranks * element_size(unit.compute_dtype)});
    collective(CollectiveCost::Kind::all_gather, layout_.ranks, unit.full);
  }
  if (sharded()) {
    unit.flat.set_data(unit.full.slice(0, 0, unit.elements));
  }
  if (!(unit.unsharded_for_skipped.defined() && unit.state == State::backward_pre)) {
    use_views(unit);
  }
  if (unit.mixed() && sharded()) {
    unit.mp_shard.storage()->record_stream(unshard_stream_);
    unit.mp_shard.storage()->resize(Bytes{});
  }
}

/// In the backward the tensors of the forward stay, on the same storage.
void Fsdp1::use_views(Unit& unit) {
  if (unit.state == State::backward_pre) {
    Runtime::current().host_work(HostWork::shard_view,
                                 static_cast<std::int64_t>(unit.originals.size()));
    return;
  }
  unit.use_views();
}

void Fsdp1::use_sharded_views(Unit& unit) {
  unit.unsharded_for_skipped.reset();
  unit.use_sharded_views(unit.state == State::backward_post);
}

void Fsdp1::reshard(Unit& unit, bool free_full) {
  Runtime& runtime = Runtime::current();
  const OpScope scope{"fsdp.reshard"};
  // SHARD_GRAD_OP goes on with the forward's views in the backward.
  const bool skip_views =
      runtime.grad_enabled && unit.state == State::forward && strategy_ == Shard::grad_op;
  if (skip_views) {
    unit.unsharded_for_skipped = unit.flat.detach();
  }
  unit.flat.set_data(unit.local_shard);
  if (!skip_views) {
    use_sharded_views(unit);
    if (unit.state == State::forward && unit.flat.grad().defined()) {
      unit.use_sharded_grad_views();
    }
  }
  if (free_full) {
    unit.full.storage()->record_stream(runtime.stream);
    unit.full.storage()->resize(Bytes{});
    if (limit_all_gathers_) {
      free_events_.push_back(runtime.record_event(runtime.stream));
    }
  }
  if (unit.mixed() && !sharded()) {
    unit.mp_shard.storage()->record_stream(runtime.stream);
    unit.mp_shard.storage()->resize(Bytes{});
  }
  unit.prefetched = false;
}

void Fsdp1::prefetch(Unit& unit) {
  Unit* target = nullptr;
  if ((unit.state == State::backward_pre && backward_prefetch_ == Prefetch::pre) ||
      (unit.state == State::backward_post && backward_prefetch_ == Prefetch::post)) {
    const std::int64_t index = unit.post_forward_index - 1;
    if (index >= 0) {
      Unit* candidate = post_forward_order_[static_cast<std::size_t>(index)];
      target =
          candidate->needs_pre_backward_unshard && !candidate->prefetched ? candidate : nullptr;
    }
  } else if (unit.state == State::forward && forward_prefetch_) {
    const std::int64_t index = unit.pre_forward_index + 1;
    if (unit.pre_forward_index >= 0 &&
        index < static_cast<std::int64_t>(pre_forward_order_.size())) {
      Unit* candidate = pre_forward_order_[static_cast<std::size_t>(index)];
      target = candidate->needs_pre_forward_unshard && !candidate->prefetched ? candidate : nullptr;
    }
  }
  if (target == nullptr) {
    return;
  }
  // The target's views are made for the pass that it is fetched for.
  const State before = target->state;
  target->state = unit.state == State::forward ? State::forward : State::backward_pre;
  unshard(*target);
  target->state = before;
  target->prefetched = true;
}

void Fsdp1::cast_inputs(std::vector<Tensor*>& arguments) const {
  if (!layout_.param_dtype) {
    return;
  }
  const OpScope scope{"fsdp.cast_inputs"};
  for (Tensor* argument : arguments) {
    if (is_floating(argument->dtype()) && argument->dtype() != *layout_.param_dtype) {
      *argument = argument->to(*layout_.param_dtype);
    }
  }
}

void Fsdp1::root_pre_forward(std::vector<Tensor*>& arguments) {
  if (!initialised_) {
    lazy_init();
  }
  if (forward_prefetch_) {
    for (Unit* unit : all_) {
      unit->needs_pre_forward_unshard = true;
      unit->prefetched = false;
    }
  }
  // Side streams start after the optimizer.
  wait_stream(unshard_stream_, Runtime::current().stream);
  wait_stream(pre_unshard_stream_, Runtime::current().stream);
  reset_gradients();
  cast_inputs(arguments);
}

/// Once zero_grad has dropped the views, the flat gradients go.
void Fsdp1::reset_gradients() {
  for (Unit* unit : all_) {
    bool all_none = true;
    for (const Original& original : unit->originals) {
      all_none = all_none && !original.shard.grad().defined();
    }
    if (all_none) {
      unit->flat.set_grad({});
    }
  }
}

void Fsdp1::pre_forward(Unit& unit, std::vector<Tensor*>& arguments) {
  Runtime::current().host_work(HostWork::shard_hook);
  if (unit.state == State::backward_pre) {
    return;  // a checkpoint's second forward: the pre-backward hook has unsharded
  }
  if (first_iteration_ && unit.pre_forward_index < 0) {
    unit.pre_forward_index = static_cast<std::int64_t>(pre_forward_order_.size());
    pre_forward_order_.push_back(&unit);
  }
  unit.state = State::forward;
  if (!unit.prefetched) {
    unshard(unit);
  }
  unit.needs_pre_forward_unshard = false;
  wait_stream(Runtime::current().stream, unshard_stream_);
  prefetch(unit);
  if (Runtime::current().grad_enabled && !unit.accumulator) {
    unit.accumulator = grad_accumulator(unit.flat);
    unit.accumulator->post_hooks.emplace_back(
        [this, &unit](TensorList& /*outputs*/, const TensorList& /*inputs*/) {
          post_backward(unit);
        });
  }
  cast_inputs(arguments);
}

void Fsdp1::post_forward(Unit& unit, TensorList& outputs) {
  Runtime::current().host_work(HostWork::shard_hook);
  if (unit.state == State::backward_pre) {
    return;
  }
  unit.post_forward_index = static_cast<std::int64_t>(post_forward_order_.size());
  post_forward_order_.push_back(&unit);
  // The root is needed at once in the backward, so it stays.
  reshard(unit, !unit.root && reshards_after_forward());
  if (Runtime::current().grad_enabled) {
    if (unit.root) {
      callback_queued_ = false;
    }
    unit.needs_pre_backward_unshard = false;
    unit.ran_pre_backward = false;
    for (const Tensor& output : outputs) {
      if (output.defined() && output.requires_grad()) {
        register_hook(output, [this, &unit](const Tensor& grad) {
          pre_backward(unit);
          return grad;
        });
        unit.needs_pre_backward_unshard = true;
      }
    }
  }
  unit.state = State::idle;
}

void Fsdp1::pre_backward(Unit& unit) {
  Runtime::current().host_work(HostWork::shard_hook);
  if (unit.ran_pre_backward) {
    return;
  }
  const OpScope scope{"fsdp.pre_backward"};
  if (unit.root && !callback_queued_) {
    callback_queued_ = true;
    Runtime::current().engine().queue_callback([this] { final_callback(); });
    reset_gradients();
  }
  unit.state = State::backward_pre;
  if (unit.needs_pre_backward_unshard) {
    if (!unit.prefetched) {
      unshard(unit);
    }
    wait_stream(Runtime::current().stream, unshard_stream_);
  }
  unit.needs_pre_backward_unshard = false;
  prefetch(unit);
  prepare_gradient_for_backward(unit);
  unit.ran_pre_backward = true;
}

/// A gradient shard from before is set aside, so that the flat parameter's own slot is free.
void Fsdp1::prepare_gradient_for_backward(Unit& unit) {
  const Tensor grad = unit.flat.grad();
  if (grad.defined() && sharded() && grad.numel() != unit.elements) {
    unit.saved_grad = grad;
    unit.flat.set_grad({});
  }
}

/// Runs when the flat parameter's gradient is complete.
void Fsdp1::post_backward(Unit& unit) {
  Runtime::current().host_work(HostWork::shard_hook);
  const GradMode no_grad{false};
  Runtime& runtime = Runtime::current();
  unit.post_backward_called = true;
  unit.state = State::backward_post;
  if (!unit.flat.grad().defined()) {
    return;
  }
  const OpScope scope{"fsdp.post_backward"};
  reshard(unit, sharded() && (sync_ || reshards_after_forward()));
  prefetch(unit);
  if (!sync_) {
    return;  // the unsharded gradient stays and adds up
  }
  wait_stream(post_backward_stream_, runtime.stream);
  const StreamGuard on{post_backward_stream_};
  const Tensor computed = unit.flat.grad();
  {
    Tensor gradient = computed;
    unit.flat.set_grad({});
    if (gradient.dtype() != unit.reduce_dtype) {
      gradient = gradient.to(unit.reduce_dtype);
    }
    reduce(unit, std::move(gradient));
  }
  computed.record_stream(post_backward_stream_);
}

void Fsdp1::reduce(Unit& unit, Tensor gradient) {
  const OpScope scope{"fsdp.reduce"};
  const auto cast_to_parameters = [&](Tensor& shard) {
    if (shard.dtype() != unit.dtype) {
      const Tensor low = shard;
      shard = low.to(unit.dtype);
      low.record_stream(Runtime::current().stream);
    }
  };
  if (!sharded()) {
    in_place("div_", gradient);
    collective(CollectiveCost::Kind::all_reduce, layout_.ranks, gradient);
    in_place("div_", gradient);
    cast_to_parameters(gradient);
    gradient.storage()->set_category(Category::gradient);
    unit.flat.set_grad(gradient);
    unit.use_sharded_grad_views();
    return;
  }
  Tensor shard = empty({unit.chunk.padded}, unit.reduce_dtype, Category::gradient);
  if (layout_.ranks > 1) {
    in_place("div_", gradient);  // by about the square root of the ranks, and by the rest after
  }
  collective(CollectiveCost::Kind::reduce_scatter, layout_.ranks, gradient);
  const auto finish = [&] {
    if (layout_.ranks > 2) {
      in_place("div_", shard);
    }
    cast_to_parameters(shard);
    shard.storage()->set_category(Category::gradient);
    if (unit.saved_grad.defined()) {
      in_place("add_", unit.saved_grad, {&shard});
    } else {
      unit.saved_grad = shard;
    }
    unit.use_sharded_grad_views();
  };
  if (replicas_ > 1) {
    wait_stream(all_reduce_stream_, post_backward_stream_);
    const StreamGuard on{all_reduce_stream_};
    shard.record_stream(all_reduce_stream_);
    collective(CollectiveCost::Kind::all_reduce, replicas_, shard);
    finish();
    return;
  }
  finish();
}

void Fsdp1::final_callback() {
  const GradMode no_grad{false};
  Runtime& runtime = Runtime::current();
  if (sync_) {
    wait_stream(runtime.stream, post_backward_stream_);
    if (replicas_ > 1) {
      wait_stream(runtime.stream, all_reduce_stream_);
    }
  }
  first_iteration_ = false;
  post_forward_order_.clear();
  for (Unit* unit : all_) {
    if (!unit->flat.storage().get() || unit->flat.storage() != unit->local_shard.storage()) {
      reshard(*unit, sharded() && (sync_ || reshards_after_forward()));
    }
    if (unit->accumulator) {
      unit->accumulator->post_hooks.clear();
      unit->accumulator.reset();
    }
    if (sync_ && unit->saved_grad.defined()) {
      if (unit->post_backward_called) {
        unit->flat.set_grad(unit->saved_grad);
      }
      unit->saved_grad.reset();
    }
    unit->post_backward_called = false;
    unit->ran_pre_backward = false;
    unit->needs_pre_backward_unshard = false;
    unit->post_forward_index = -1;
    unit->state = State::idle;
    unit->prefetched = false;
  }
  callback_queued_ = false;
}

}  // namespace

std::unique_ptr<DataParallel> make_fsdp1(const RunSpec& spec, Module& model) {
  return std::make_unique<Fsdp1>(spec, model);
}

}  // namespace peakcast::torch
