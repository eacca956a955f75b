#include "workloads/parallel/fsdp1.hpp"

#include <algorithm>
#include <deque>
#include <optional>
#include <unordered_map>
#include <unordered_set>

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

/// Makes the tensor that a module's name stands for a view into the unsharded flat parameter, and
/// part of the graph: setattr(module, name, view), with the module's handle keeping its identity.
void become(const Tensor& slot, const Tensor& view) {
  TensorImpl& impl = *slot.impl();
  const TensorImpl& other = *view.impl();
  impl.storage = other.storage;
  impl.sizes = other.sizes;
  impl.strides = other.strides;
  impl.dtype = other.dtype;
  impl.requires_grad = false;
  impl.output_nr = other.output_nr;
  impl.grad_fn = other.grad_fn;
  impl.base = other.base;
}

/// torch.split(flat, sizes) with as many pieces as a unit has tensors: views, one node for all.
class SplitPiecesBackward final : public Node {
 public:
  SplitPiecesBackward(std::vector<std::int64_t> pieces, Dtype dtype)
      : pieces_{std::move(pieces)}, dtype_{dtype} {}
  [[nodiscard]] const char* name() const override { return "SplitWithSizesBackward"; }
  /// Pieces without a gradient (padding) are filled with zeros, then all are concatenated.
  [[nodiscard]] TensorList apply(TensorList& grads) override {
    const TensorList& arrived = grads;
    TensorList pieces;
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      pieces.push_back(arrived[i].defined() ? arrived[i].reshape({pieces_[i]})
                                            : empty({pieces_[i]}, dtype_));
    }
    TensorList result;
    result.push_back(cat(pieces, 0));
    result.back().storage()->set_category(Category::gradient);
    return result;
  }

 private:
  std::vector<std::int64_t> pieces_;
  Dtype dtype_;
};

TensorList split_pieces(const Tensor& flat, const std::vector<std::int64_t>& pieces) {
  const Ref<SplitPiecesBackward> node =
      make_node<SplitPiecesBackward>({&flat}, pieces, flat.dtype());
  TensorList views;
  std::int64_t at = 0;
  for (const std::int64_t length : pieces) {
    Tensor view;
    {
      const GradMode no_grad{false};
      view = flat.slice(0, at, at + length);
    }
    views.push_back(with_history(std::move(view), node));
    at += length;
  }
  return views;
}

/// One original parameter of a unit.
struct Original {
  Tensor slot{};   ///< what the modules use
  Tensor shard{};  ///< what the optimizer uses: this rank's elements of it, flat
  Shape sizes{};
  std::int64_t offset{};  ///< into this rank's shard
  std::int64_t length{};  ///< elements of it on this rank; may be 0
};

/// FlatParamHandle: one wrapped module.
struct Unit {
  Module* module{};
  bool root{};
  std::vector<Original> originals{};
  std::vector<std::int64_t> pieces{};        ///< elements of every piece of the flat parameter
  std::vector<std::int64_t> originals_at{};  ///< per piece: index into originals, or -1 for padding
  std::int64_t elements{};                   ///< of the flat parameter, padding included
  Chunk chunk{};
  Dtype dtype{};          ///< of the parameters
  Dtype compute_dtype{};  ///< of forward and backward
  Dtype reduce_dtype{};
  Tensor flat{};                   ///< the FlatParameter: a leaf whose data changes
  Tensor local_shard{};            ///< this rank's elements, padded
  Tensor mp_shard{};               ///< the same in the compute type; storage comes and goes
  Tensor full{};                   ///< all ranks' elements; storage comes and goes
  Tensor saved_grad{};             ///< _saved_grad_shard
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

  [[nodiscard]] bool mixed() const { return compute_dtype != dtype; }
  [[nodiscard]] bool unsharded() const { return full.storage()->size() > Bytes{}; }
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
  void flatten(Unit& unit);
  void shard(Unit& unit);
  void lazy_init();

  // Unsharding and resharding.
  void unshard(Unit& unit);
  void use_views(Unit& unit);
  void use_sharded_views(Unit& unit);
  void use_sharded_grad_views(Unit& unit);
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

  [[nodiscard]] bool sharded() const { return strategy_ != Shard::none; }
  [[nodiscard]] bool reshards_after_forward() const {
    return strategy_ == Shard::full || strategy_ == Shard::hybrid;
  }
  void collective(CollectiveCost::Kind kind, std::int64_t world, const Tensor& full) const {
    Runtime::current().collective({.kind = kind, .world = world, .bytes = full.nbytes().count()});
  }

  Module& model_;
  Shard strategy_{};
  std::int64_t ranks_{};      ///< that share one flat parameter
  std::int64_t rank_{};       ///< among them
  std::int64_t replicas_{1};  ///< groups of such ranks (HYBRID_SHARD)
  std::optional<Dtype> param_dtype_{};
  std::optional<Dtype> reduce_dtype_{};
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
      ranks_{spec.world},
      rank_{spec.rank},
      param_dtype_{dtype_of(spec.shard_precision)},
      reduce_dtype_{dtype_of(spec.reduce_precision)},
      backward_prefetch_{spec.backward_prefetch},
      forward_prefetch_{spec.forward_prefetch},
      limit_all_gathers_{spec.limit_all_gathers} {
  if (strategy_ == Shard::hybrid && spec.world > kCardsPerNode) {
    ranks_ = kCardsPerNode;
    rank_ = spec.rank % kCardsPerNode;
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
  units_.push_back(std::make_unique<Unit>());
  Unit& unit = *units_.back();
  unit.module = &module;
  unit.root = root;
  unit_of_.emplace(&module, &unit);
  flatten(unit);
  shard(unit);
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

/// _init_flat_param_and_metadata: every tensor starts at a multiple of 16 bytes of the compute
/// type, the whole is a multiple of the ranks.
void Fsdp1::flatten(Unit& unit) {
  const OpScope scope{"fsdp.flatten"};
  TensorList pieces;
  TensorList padding;  // ends with this function
  bool first = true;
  std::int64_t align = 0;
  const auto pad = [&](std::int64_t count) {
    const Tensor ones = empty({count}, unit.dtype);
    Tensor value = empty({count}, unit.dtype);  // ones * the padding value
    Runtime::current().use_kernels();
    pieces.push_back(value);
    padding.push_back(std::move(value));
    unit.pieces.push_back(count);
    unit.originals_at.push_back(-1);
    unit.elements += count;
  };
  const auto visit = [&](const auto& self, Module& module) -> void {
    for (const Module::Named& named : module.own_parameters) {
      const Tensor& parameter = named.tensor;
      if (!managed_.insert(parameter.impl()).second) {
        continue;  // another unit's, or tied to one that is in already
      }
      if (first) {
        first = false;
        unit.dtype = parameter.dtype();
        unit.compute_dtype = param_dtype_.value_or(unit.dtype);
        // A parameter type without a reduce type: gradients are reduced as they are computed.
        unit.reduce_dtype = reduce_dtype_.value_or(unit.compute_dtype);
        align = 16 / element_size(unit.compute_dtype);
      }
      if (const std::int64_t over = unit.elements % align; over != 0) {
        pad(align - over);
      }
      Original original;
      original.slot = parameter;
      original.sizes = parameter.sizes();
      original.shard = Tensor{make_ref<TensorImpl>()};
      unit.originals_at.push_back(static_cast<std::int64_t>(unit.originals.size()));
      unit.originals.push_back(std::move(original));
      unit.pieces.push_back(parameter.numel());
      unit.elements += parameter.numel();
      pieces.push_back(parameter.detach().view({parameter.numel()}));
    }
    for (const Module::Child& child : module.children) {
      if (!unit_of_.contains(child.module)) {
        self(self, *child.module);
      }
    }
  };
  visit(visit, *unit.module);
  check(!first, "a wrapped module has parameters");
  if (const std::int64_t over = unit.elements % ranks_; over != 0) {
    pad(ranks_ - over);
  }
  unit.flat = cat(pieces, 0).detach();
  unit.flat.set_requires_grad(true);
  pieces.clear();
  while (!padding.empty()) {  // a Python list lets go of its last item first
    padding.pop_back();
  }
  unit.flat.storage()->set_category(Category::parameter);
  unit.chunk = chunk_of(unit.elements, ranks_, rank_);
}

void Fsdp1::shard(Unit& unit) {
  const OpScope scope{"fsdp.shard"};
  if (sharded()) {
    {
      const Tensor piece =
          unit.flat.detach().slice(0, unit.chunk.begin, unit.chunk.begin + unit.chunk.length);
      unit.local_shard = clone(piece);
      unit.local_shard.storage()->set_category(Category::parameter);
    }
    unit.flat.storage()->resize(Bytes{});
    unit.flat.set_data(unit.local_shard);
  }
  // Which elements of which parameter lie in this rank's shard.
  const std::int64_t begin = sharded() ? unit.chunk.begin : 0;
  const std::int64_t end = sharded() ? unit.chunk.begin + unit.chunk.length : unit.elements;
  std::int64_t at = 0;
  for (std::size_t piece = 0; piece < unit.pieces.size(); ++piece) {
    const std::int64_t length = unit.pieces[piece];
    if (const std::int64_t index = unit.originals_at[piece]; index >= 0) {
      Original& original = unit.originals[static_cast<std::size_t>(index)];
      const std::int64_t from = std::max(begin, at);
      const std::int64_t to = std::min(end, at + length);
      original.length = std::max<std::int64_t>(0, to - from);
      original.offset = original.length > 0 ? from - begin : 0;
      original.shard->requires_grad = true;
    }
    at += length;
  }
  use_sharded_views(unit);
  for (Original& original : unit.originals) {
    // The modules' own data goes when the views take over.
    original.slot.set_data(original.length > 0 || !sharded() ? original.shard
                                                             : empty({0}, unit.dtype));
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
  if (param_dtype_) {
    // mixed_precision.buffer_dtype: floating buffers are cast for good.
    for (Module* module : model_.modules()) {
      for (Module::Named& buffer : module->own_buffers) {
        if (is_floating(buffer.tensor.dtype()) && buffer.tensor.dtype() != *param_dtype_) {
          buffer.tensor.set_data(buffer.tensor.to(*param_dtype_));
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
    unit->local_shard = unit->flat.detach();
    const std::int64_t local = unit->local_shard.numel();
    if (unit->mixed()) {
      unit->mp_shard = empty({local}, unit->compute_dtype, Category::communication);
      unit->mp_shard.storage()->resize(Bytes{});
    }
    if (sharded()) {
      unit->full = empty({local * ranks_}, unit->compute_dtype, Category::parameter);
      unit->full.storage()->resize(Bytes{});
      if (unit->mixed()) {
        // The full-precision twin, for summon_full_params: made and emptied, too.
        const Tensor twin = empty({local * ranks_}, unit->dtype, Category::parameter);
      }
    }
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
    unit.full.storage()->resize(Bytes{local * ranks_ * element_size(unit.compute_dtype)});
    collective(CollectiveCost::Kind::all_gather, ranks_, unit.full);
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

/// _use_unsharded_views: one split of the flat parameter, a view per original. In the backward the
/// tensors of the forward stay, on the same storage.
void Fsdp1::use_views(Unit& unit) {
  Runtime::current().host_work(HostWork::shard_view,
                               static_cast<std::int64_t>(unit.originals.size()));
  if (unit.state == State::backward_pre) {
    return;  // their storage is back: it is the same one
  }
  const GradMode grad{true};
  const TensorList splits = split_pieces(unit.flat, unit.pieces);
  for (std::size_t piece = 0; piece < splits.size(); ++piece) {
    if (const std::int64_t index = unit.originals_at[piece]; index >= 0) {
      Original& original = unit.originals[static_cast<std::size_t>(index)];
      become(original.slot, splits[piece].view(original.sizes));
    }
  }
}

void Fsdp1::use_sharded_views(Unit& unit) {
  Runtime::current().host_work(HostWork::shard_view,
                               static_cast<std::int64_t>(unit.originals.size()));
  const GradMode no_grad{false};
  unit.unsharded_for_skipped.reset();
  for (Original& original : unit.originals) {
    if (unit.state == State::backward_post) {
      original.slot->grad_fn.reset();  // the forward's views end
      original.slot->base.reset();
    }
    if (original.length == 0) {
      original.shard.set_data(empty({0}, unit.dtype));
      continue;
    }
    const Tensor data = unit.flat.detach();
    if (sharded()) {
      original.shard.set_data(data.slice(0, original.offset, original.offset + original.length));
    } else {
      original.shard.set_data(
          data.slice(0, original.offset, original.offset + original.length).view(original.sizes));
    }
  }
}

void Fsdp1::use_sharded_grad_views(Unit& unit) {
  Runtime::current().host_work(HostWork::shard_view,
                               static_cast<std::int64_t>(unit.originals.size()));
  const GradMode no_grad{false};
  const Tensor grad = unit.saved_grad.defined() ? unit.saved_grad : unit.flat.grad();
  for (Original& original : unit.originals) {
    if (!grad.defined() || original.length == 0) {
      original.shard.set_grad({});
      continue;
    }
    const Tensor view = grad.slice(0, original.offset, original.offset + original.length);
    original.shard.set_grad(sharded() ? view : view.view(original.sizes));
  }
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
      use_sharded_grad_views(unit);
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
  if (!param_dtype_) {
    return;
  }
  const OpScope scope{"fsdp.cast_inputs"};
  for (Tensor* argument : arguments) {
    if (is_floating(argument->dtype()) && argument->dtype() != *param_dtype_) {
      *argument = argument->to(*param_dtype_);
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
    collective(CollectiveCost::Kind::all_reduce, ranks_, gradient);
    in_place("div_", gradient);
    cast_to_parameters(gradient);
    gradient.storage()->set_category(Category::gradient);
    unit.flat.set_grad(gradient);
    use_sharded_grad_views(unit);
    return;
  }
  Tensor shard = empty({unit.chunk.padded}, unit.reduce_dtype, Category::gradient);
  if (ranks_ > 1) {
    in_place("div_", gradient);  // by about the square root of the ranks, and by the rest after
  }
  collective(CollectiveCost::Kind::reduce_scatter, ranks_, gradient);
  const auto finish = [&] {
    if (ranks_ > 2) {
      in_place("div_", shard);
    }
    cast_to_parameters(shard);
    shard.storage()->set_category(Category::gradient);
    if (unit.saved_grad.defined()) {
      in_place("add_", unit.saved_grad, {&shard});
    } else {
      unit.saved_grad = shard;
    }
    use_sharded_grad_views(unit);
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
