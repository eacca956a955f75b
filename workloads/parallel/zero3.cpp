#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "workloads/parallel/zero.hpp"
#include "workloads/parallel/zero_step.hpp"

namespace peakcast::torch {
namespace {

// DeepSpeed's defaults, in elements.
constexpr std::int64_t kPrefetch = 50'000'000;          // stage3_prefetch_bucket_size
constexpr std::int64_t kPersistence = 100'000;          // stage3_param_persistence_threshold
constexpr std::int64_t kMaxLive = 1'000'000'000;        // stage3_max_live_parameters
constexpr std::int64_t kReuseDistance = 1'000'000'000;  // stage3_max_reuse_distance
constexpr std::int64_t kSubGroup = 1'000'000'000;       // sub_group_size
constexpr std::size_t kEventsAhead = 2;  // max_ongoing_fetch_events, max_param_reduce_events
constexpr std::int64_t kNever = -10'000'000'000;

/// Passes gradients through and says that it did.
class Passing final : public Node {
 public:
  Passing(const char* name, std::function<void()> run) : name_{name}, run_{std::move(run)} {}
  [[nodiscard]] const char* name() const override { return name_; }
  [[nodiscard]] TensorList apply(TensorList& grads) override {
    run_();
    return std::move(grads);
  }

 private:
  const char* name_;
  std::function<void()> run_;
};

/// The same tensor as a result of `node`, as a custom function that detaches returns it.
Tensor passed_through(const Tensor& tensor, const char* name, std::function<void()> run) {
  Ref<Passing> node{new Passing{name, std::move(run)}};
  node->next.push_back(gradient_edge(tensor));
  const GradMode no_grad{false};
  return with_history(tensor.detach(), node);
}

/// DeepSpeedZeroOptimizer_Stage3 with its PartitionedParameterCoordinator.
class Zero3 final : public DataParallel {
 public:
  Zero3(const RunSpec& spec, Module& model);
  [[nodiscard]] TensorList parameters() override { return slots_; }
  [[nodiscard]] std::unique_ptr<Optimizer> optimizer(OptimizerKind kind) override;
  void backward(const Tensor& loss) override;
  [[nodiscard]] bool is_engine() const override { return true; }

 private:
  enum class Status : std::uint8_t { not_available, inflight, available };
  struct Parameter {
    Tensor slot{};  ///< the model's; without elements unless gathered
    Shape sizes{};
    std::int64_t elements{};
    std::int64_t shard{};  ///< elements of one rank
    std::int64_t begin{};  ///< of this rank's shard among all shards
    Dtype wire{};          ///< gathered and reduced in this type
    bool persists{};
    Status status{Status::available};
    std::set<std::size_t> active{};  ///< modules that use it now
    std::int64_t fetched_for{kNever};
  };
  /// What the hooks know of a module.
  struct Hooked {
    std::vector<std::size_t> own{};  ///< its parameters, ascending
    std::int64_t grads_remaining{};
    std::int64_t forwards{};  ///< that no backward has answered
  };
  /// What one call gathers, an all-gather for each type. Waiting for one parameter waits for all.
  struct Gather {
    struct Part {
      Dtype type{};
      std::vector<std::size_t> members{};
      Tensor buffer{};
    };
    std::vector<Part> parts{};
    bool coalesced{};  ///< several parameters share a buffer, and are copied out of it
    bool complete{};
  };
  struct Traced {
    std::size_t parameter{};
    std::int64_t step{};
  };
  enum class Trace : std::uint8_t { invalid, record, complete };

  // initialization
  void barrier();
  void partition();
  void create_fp32_partitions();
  void create_hooks();
  void hook(Module& model);
  void enter(std::size_t module, const std::vector<Tensor*>& arguments);
  void leave(std::size_t module, TensorList& outputs);
  // coordinator
  void reset_step();
  void fetch(std::size_t module, bool forward);
  void prefetch(const Hooked& module);
  void release(std::size_t module, bool forward);
  [[nodiscard]] const std::vector<std::size_t>& may_go(std::size_t module);
  void gather(const std::vector<std::size_t>& wanted);
  void wait(Gather& gathering);
  void release(Parameter& parameter);
  void gather_now(Parameter& parameter);
  void point_at(Parameter& parameter, const Tensor& buffer) const;
  [[nodiscard]] Tensor shard(std::size_t i) const;
  // gradients
  void ready(std::size_t i);
  void reduce(Dtype type);
  [[nodiscard]] TensorList reduce_scatter(const TensorList& grads) const;
  void epilogue();
  // step
  void partition_all();
  void check_overflow();
  void step();
  void step_sub_group(std::size_t group, const Tensor& norm);
  [[nodiscard]] Tensor grad_shard(std::size_t i) const;
  void gather_persistent();

  std::int64_t ranks_{};
  std::int64_t rank_{};
  std::int64_t accumulate_{};
  Dtype dtype_{};
  TensorList slots_{};
  std::vector<Parameter> parameters_{};
  std::vector<Hooked> modules_{};
  StreamId gather_stream_{};
  StreamId reduce_stream_{};

  Tensor shards_{};  ///< this rank's of all parameters
  Tensor barrier_{};
  Tensor overflow_{};
  std::vector<std::vector<std::size_t>> groups_{};
  TensorList masters_{};
  std::vector<std::unique_ptr<Optimizer>> inner_{};
  Tensor grads_{};  ///< this rank's of all gradients
  struct Bucket {
    Dtype type{};
    Tensor buffer{};
    std::int64_t elements{};
    std::vector<std::size_t> members{};
  };
  std::vector<Bucket> buckets_{};  ///< by the name of their type
  std::deque<std::uint32_t> reduce_events_{};
  std::vector<Ref<AccumulateGrad>> accumulators_{};

  Trace trace_{};
  std::int64_t step_{};
  std::vector<std::size_t> module_order_{};
  std::vector<Traced> parameter_order_{};
  std::deque<Traced> queue_{};
  std::map<std::pair<std::size_t, std::int64_t>, std::vector<std::size_t>> released_at_{};
  std::vector<std::pair<std::size_t, std::shared_ptr<Gather>>> inflight_{};
  std::deque<std::uint32_t> fetch_events_{};
  std::int64_t available_{};
  std::vector<std::size_t> active_backward_{};  ///< modules, the latest last
  Tensor norm_{};                               ///< _global_grad_norm
};

// -- initialization -------------------------------------------------------------------------------

Zero3::Zero3(const RunSpec& spec, Module& model)
    : ranks_{spec.world}, rank_{spec.rank}, accumulate_{spec.accumulate} {
  Runtime& runtime = Runtime::current();
  model.to_cuda();
  slots_ = model.parameters();
  dtype_ = slots_.front().dtype();
  const std::vector<Dtype> wire = communication_types(spec, model, slots_);
  std::unordered_map<const TensorImpl*, std::size_t> index_of;  // never iterated
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    Parameter parameter;
    parameter.slot = slots_[i];
    parameter.sizes = slots_[i].sizes();
    parameter.elements = slots_[i].numel();
    parameter.shard = chunk_of(parameter.elements, ranks_, 0).padded;
    parameter.begin = begin;
    parameter.wire = wire[i];
    parameter.persists = parameter.elements <= kPersistence;
    begin += parameter.shard;
    index_of.emplace(slots_[i].impl(), i);
    accumulators_.push_back(grad_accumulator(slots_[i]));
    parameters_.push_back(std::move(parameter));
  }
  for (const Dtype type : {Dtype::bfloat16, Dtype::float16, Dtype::float32}) {
    if (std::find(wire.begin(), wire.end(), type) != wire.end()) {
      buckets_.push_back({});
      buckets_.back().type = type;
    }
  }
  gather_stream_ = runtime.make_stream();
  reduce_stream_ = runtime.make_stream();
  runtime.memory_efficient_linear = true;
  for (const Module* module : model.modules()) {
    Hooked hooked;
    for (const Module::Named& parameter : module->own_parameters) {
      hooked.own.push_back(index_of.at(parameter.tensor.impl()));
    }
    std::sort(hooked.own.begin(), hooked.own.end());
    modules_.push_back(std::move(hooked));
  }
  hook(model);
}

void Zero3::hook(Module& model) {
  model.pre_hooks.push_back(
      [this](Module& /*root*/, std::vector<Tensor*>& /*arguments*/) { reset_step(); });
  std::size_t m = 0;
  for (Module* module : model.modules()) {
    module->pre_hooks.push_back(
        [this, m](Module& /*self*/, std::vector<Tensor*>& arguments) { enter(m, arguments); });
    module->hooks.push_back(
        [this, m](Module& /*self*/, TensorList& outputs) { leave(m, outputs); });
    ++m;
  }
}

/// Its backward is over when all gradients of its inputs have passed.
void Zero3::enter(std::size_t module, const std::vector<Tensor*>& arguments) {
  fetch(module, true);
  modules_[module].grads_remaining = 0;
  for (Tensor* argument : arguments) {
    if (Runtime::current().grad_enabled && argument->requires_grad()) {
      ++modules_[module].grads_remaining;
      *argument = passed_through(*argument, "PostBackwardFunctionModule", [this, module] {
        if (--modules_[module].grads_remaining == 0) {
          release(module, false);
        }
      });
    }
  }
}

/// Its backward begins when a gradient of an output passes.
void Zero3::leave(std::size_t module, TensorList& outputs) {
  release(module, true);
  for (Tensor& output : outputs) {
    if (!output.defined()) {
      continue;
    }
    ++modules_[module].forwards;
    if (Runtime::current().grad_enabled && output.requires_grad()) {
      output = passed_through(output, "PreBackwardFunctionForModule", [this, module] {
        if (modules_[module].forwards > 0) {
          fetch(module, false);
          --modules_[module].forwards;
        }
      });
    }
  }
}

/// dist.barrier(): a byte that lives until the next one, and a reduction of four for the call.
void Zero3::barrier() {
  const OpScope scope{"barrier"};
  Tensor fresh = empty({1}, Dtype::uint8, Category::communication);
  barrier_ = std::move(fresh);
  const Tensor reduced = empty({1}, Dtype::float32, Category::communication);
  read_back();
}

std::unique_ptr<Optimizer> Zero3::optimizer(OptimizerKind kind) {
  const GradMode no_grad{false};
  partition();
  create_fp32_partitions();
  barrier();
  {
    const OpScope scope{"zero3.initialize_optimizer_states"};
    std::int64_t largest = 0;
    for (const Tensor& master : masters_) {
      largest = std::max(largest, master.numel());
    }
    const Tensor gradient = empty({largest}, Dtype::float32);
  }
  barrier();
  {
    const OpScope scope{"zero3.buckets"};
    for (Bucket& bucket : buckets_) {
      bucket.buffer = empty({kReduceBucket}, bucket.type, Category::communication);
    }
    grads_ = empty({shards_.numel()}, dtype_, Category::gradient);
  }
  create_hooks();
  for (const Tensor& master : masters_) {
    inner_.push_back(make_optimizer(kind, {master}));
  }
  return std::make_unique<ZeroOptimizer>(slots_, [this] { step(); });
}

/// Every parameter is cut where it lies; the shards then go through the host into one buffer.
void Zero3::partition() {
  Runtime& runtime = Runtime::current();
  TensorList pieces;
  {
    const OpScope scope{"zero3.partition"};
    for (Parameter& parameter : parameters_) {
      runtime.collective({.kind = CollectiveCost::Kind::broadcast,
                          .world = ranks_,
                          .bytes = parameter.slot.nbytes().count()});
      pieces.push_back(empty({parameter.shard}, dtype_, Category::parameter));
      in_place("copy_", pieces.back());
      parameter.slot.set_data(empty({0}, dtype_));
      parameter.status = Status::not_available;
    }
    overflow_ = empty({1}, Dtype::boolean);
  }
  barrier();
  const OpScope scope{"zero3.defragment"};
  const Parameter& last = parameters_.back();
  for (Tensor& piece : pieces) {
    piece.reset();
  }
  runtime.empty_cache();
  shards_ = to_device(host_tensor({last.begin + last.shard}, dtype_), Category::parameter);
}

void Zero3::create_fp32_partitions() {
  // Sub-groups of at least so many elements of this rank, and one of the rest.
  std::int64_t length = 0;
  groups_.emplace_back();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    groups_.back().push_back(i);
    length += parameters_[i].shard;
    if (length >= kSubGroup && i + 1 < parameters_.size()) {
      groups_.emplace_back();
      length = 0;
    }
  }
  const OpScope scope{"zero3.fp32_partitions"};
  Tensor converted;
  for (const std::vector<std::size_t>& group : groups_) {
    const Tensor flat =
        shards_.slice(0, parameters_[group.front()].begin,
                      parameters_[group.back()].begin + parameters_[group.back()].shard);
    Tensor next = flat.to(Dtype::float32);
    converted = std::move(next);
    masters_.push_back(clone(converted));
    masters_.back().storage()->set_category(Category::optimizer);
    masters_.back().set_requires_grad(true);
  }
}

/// A parameter is gathered for its gradient's hook to be made.
void Zero3::create_hooks() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    gather_now(parameters_[i]);
    parameters_[i].slot->post_accumulate_hooks.emplace_back([this, i](Tensor&) { ready(i); });
    release(parameters_[i]);
  }
  available_ = 0;
}

// -- coordinator ----------------------------------------------------------------------------------

/// assert_ints_same_as_other_ranks: the length, then the numbers.
void compare_with_other_ranks(std::size_t count) {
  const OpScope scope{"assert_ints_same_as_other_ranks"};
  empty({1}, Dtype::int64).reset();
  read_back();
  if (count > 0) {
    empty({static_cast<std::int64_t>(count)}, Dtype::int64).reset();
    read_back();
  }
}

/// Before every forward of the whole model.
void Zero3::reset_step() {
  while (!inflight_.empty()) {
    const auto [parameter, gathering] = std::move(inflight_.front());
    inflight_.erase(inflight_.begin());
    wait(*gathering);
    release(parameters_[parameter]);
  }
  if (trace_ != Trace::complete) {
    compare_with_other_ranks(module_order_.size());
    if (trace_ == Trace::record) {
      for (std::size_t k = 0; k < module_order_.size(); ++k) {
        for (const std::size_t i : modules_[module_order_[k]].own) {
          parameter_order_.push_back({i, static_cast<std::int64_t>(k)});
        }
      }
      compare_with_other_ranks(parameter_order_.size());
      compare_with_other_ranks(parameter_order_.size());
      trace_ = Trace::complete;
    } else {
      trace_ = Trace::record;
    }
  }
  queue_.assign(parameter_order_.begin(), parameter_order_.end());
  for (Parameter& parameter : parameters_) {
    parameter.fetched_for = kNever;
  }
  step_ = 0;
  available_ = 0;
}

void Zero3::fetch(std::size_t module, bool forward) {
  const GradMode no_grad{false};
  Runtime& runtime = Runtime::current();
  const Hooked& hooked = modules_[module];
  runtime.host_work(HostWork::shard_hook);
  if (trace_ == Trace::record) {
    module_order_.push_back(module);
  }
  if (!forward) {
    std::erase(active_backward_, module);
    active_backward_.push_back(module);
  }
  gather(hooked.own);
  for (const std::size_t i : hooked.own) {
    parameters_[i].active.insert(module);
    const auto found = std::find_if(inflight_.begin(), inflight_.end(),
                                    [&](const auto& entry) { return entry.first == i; });
    if (found == inflight_.end()) {
      continue;
    }
    const StreamGuard on{gather_stream_};
    if (fetch_events_.size() > kEventsAhead) {
      runtime.host_wait(fetch_events_.front());
      fetch_events_.pop_front();
    }
    const std::shared_ptr<Gather> gathering = std::move(found->second);
    inflight_.erase(found);
    wait(*gathering);
    fetch_events_.push_back(runtime.record_event(gather_stream_));
  }
  wait_stream(runtime.stream, gather_stream_);
  if (trace_ == Trace::complete) {
    prefetch(hooked);
  }
  ++step_;
}

/// Gathers what comes next in the recorded order, until it is enough.
void Zero3::prefetch(const Hooked& module) {
  std::size_t missing = 0;
  for (const std::size_t i : module.own) {
    missing += parameters_[i].fetched_for < step_ ? 1U : 0U;
  }
  std::set<std::size_t> discarded;
  while (!queue_.empty() && discarded.size() < missing) {
    parameters_[queue_.front().parameter].fetched_for = queue_.front().step;
    discarded.insert(queue_.front().parameter);
    queue_.pop_front();
  }
  const std::int64_t enough = std::min(kMaxLive - available_, kPrefetch);
  std::set<std::size_t> ahead;
  std::int64_t elements = 0;
  while (!queue_.empty() && elements < enough) {
    const Traced next = queue_.front();
    queue_.pop_front();
    Parameter& parameter = parameters_[next.parameter];
    parameter.fetched_for = std::max(parameter.fetched_for, next.step);
    if (parameter.status == Status::not_available && ahead.insert(next.parameter).second) {
      elements += parameter.elements;
    }
  }
  gather({ahead.begin(), ahead.end()});
}

/// Starts all-gathers of those that are not there, one after the other of each type.
void Zero3::gather(const std::vector<std::size_t>& wanted) {
  Runtime& runtime = Runtime::current();
  std::vector<std::size_t> missing;
  for (const std::size_t i : wanted) {
    if (parameters_[i].status == Status::not_available &&
        std::find(missing.begin(), missing.end(), i) == missing.end()) {
      missing.push_back(i);
    }
  }
  const OpScope scope{"zero3.all_gather"};
  const StreamGuard on{gather_stream_};
  if (missing.empty()) {
    return;
  }
  runtime.host_work(HostWork::shard_hook);
  const auto gathering = std::make_shared<Gather>();
  gathering->coalesced = missing.size() > 1;
  for (const Bucket& kind : buckets_) {
    Gather::Part part{.type = kind.type};
    std::int64_t elements = 0;
    for (const std::size_t i : missing) {
      if (parameters_[i].wire == kind.type) {
        part.members.push_back(i);
        elements += parameters_[i].shard;
        available_ += parameters_[i].elements;
        parameters_[i].status = Status::inflight;
      }
    }
    if (part.members.empty()) {
      continue;
    }
    if (ranks_ > 1) {
      part.buffer = empty({elements * ranks_}, kind.type, Category::parameter);
      TensorList casts;  // of the shards, for the call
      for (const std::size_t i : part.members) {
        if (kind.type != dtype_) {
          casts.push_back(shard(i).to(kind.type));
        }
      }
      release_backwards(casts);
      runtime.collective({.kind = CollectiveCost::Kind::all_gather,
                          .world = ranks_,
                          .bytes = part.buffer.nbytes().count()});
    }
    if (!gathering->coalesced && kind.type == dtype_) {
      point_at(parameters_[missing.front()], part.buffer);
      part.buffer.reset();
    }
    gathering->parts.push_back(std::move(part));
  }
  for (const std::size_t i : missing) {
    inflight_.emplace_back(i, gathering);
  }
}

/// What arrived in one buffer becomes tensors of their own, on the current stream.
void Zero3::wait(Gather& gathering) {
  if (gathering.complete) {
    return;
  }
  gathering.complete = true;
  const OpScope scope{"zero3.wait"};
  for (const Gather::Part& part : gathering.parts) {
    for (const std::size_t i : part.members) {
      Parameter& parameter = parameters_[i];
      parameter.status = Status::available;
      if (ranks_ == 1) {
        point_at(parameter, {});
      } else if (gathering.coalesced) {
        Tensor whole = empty({parameter.elements}, part.type, Category::parameter);
        in_place("copy_", whole);
        point_at(parameter, std::move(whole).to(dtype_));
      } else if (part.buffer.defined()) {
        point_at(parameter, part.buffer.slice(0, 0, parameter.elements).to(dtype_));
      }
    }
  }
}

/// The model's parameter is the first elements of `buffer`; of the shards when there is none.
void Zero3::point_at(Parameter& parameter, const Tensor& buffer) const {
  const Tensor source = buffer.defined()
                            ? buffer
                            : shards_.slice(0, parameter.begin, parameter.begin + parameter.shard);
  parameter.slot.set_data(source.slice(0, 0, parameter.elements).view(parameter.sizes));
}

Tensor Zero3::shard(std::size_t i) const {
  return shards_.slice(0, parameters_[i].begin, parameters_[i].begin + parameters_[i].shard);
}

void Zero3::gather_now(Parameter& parameter) {
  const OpScope scope{"zero3.all_gather"};
  const Tensor buffer = empty({parameter.shard * ranks_}, dtype_, Category::parameter);
  Runtime::current().collective({.kind = CollectiveCost::Kind::all_gather,
                                 .world = ranks_,
                                 .bytes = buffer.nbytes().count()});
  point_at(parameter, buffer);
  parameter.status = Status::available;
}

void Zero3::release(Parameter& parameter) {
  if (parameter.status != Status::available || !parameter.active.empty()) {
    return;
  }
  const OpScope scope{"zero3.release"};
  parameter.slot.record_stream(Runtime::current().stream);
  parameter.slot.set_data(empty({0}, dtype_));
  parameter.status = Status::not_available;
  available_ -= parameter.elements;
}

/// Of a module's parameters: those that are not to be used again soon. Worked out once for every
/// place in the order (DeepSpeed caches it too).
const std::vector<std::size_t>& Zero3::may_go(std::size_t module) {
  const auto [place, fresh] = released_at_.try_emplace({module, step_});
  if (!fresh) {
    return place->second;
  }
  std::set<std::size_t> going;
  for (const std::size_t i : modules_[module].own) {
    if (!parameters_[i].persists && parameters_[i].fetched_for <= step_) {
      going.insert(i);
    }
  }
  std::int64_t traversed = 0;
  for (auto k = static_cast<std::size_t>(step_);
       k < module_order_.size() && traversed < kReuseDistance && !going.empty(); ++k) {
    for (const std::size_t i : modules_[module_order_[k]].own) {
      going.erase(i);
      traversed += parameters_[i].elements;
    }
  }
  place->second.assign(going.begin(), going.end());
  return place->second;
}

void Zero3::release(std::size_t module, bool forward) {
  const GradMode no_grad{false};
  const std::vector<std::size_t>& own = modules_[module].own;
  const std::vector<std::size_t> going = trace_ == Trace::complete ? may_go(module) : own;
  if (!forward) {
    std::erase(active_backward_, module);
  }
  for (const std::size_t i : own) {
    parameters_[i].active.erase(module);
    if (std::find(going.begin(), going.end(), i) != going.end()) {
      release(parameters_[i]);
    }
  }
}

// -- backward -------------------------------------------------------------------------------------

void Zero3::backward(const Tensor& loss) {
  engine_backward(loss, accumulate_, [this] {
    const GradMode no_grad{false};
    epilogue();
    // Modules whose inputs take no gradient have not been told that their backward is over.
    while (!active_backward_.empty()) {
      const std::size_t module = active_backward_.back();
      active_backward_.pop_back();
      for (const std::size_t i : modules_[module].own) {
        parameters_[i].active.erase(module);
        if (!parameters_[i].persists) {
          release(parameters_[i]);
        }
      }
    }
  });
}

void Zero3::ready(std::size_t i) {
  const GradMode no_grad{false};
  Runtime& runtime = Runtime::current();
  const OpScope scope{"zero3.bucket"};
  Parameter& parameter = parameters_[i];
  Bucket& bucket = *std::find_if(buckets_.begin(), buckets_.end(), [&](const Bucket& candidate) {
    return candidate.type == parameter.wire;
  });
  if (bucket.elements > 0 && bucket.elements + parameter.elements > kReduceBucket) {
    reduce(bucket.type);
  }
  wait_stream(reduce_stream_, runtime.stream);
  if (bucket.elements + parameter.elements <= kReduceBucket) {
    const StreamGuard on{reduce_stream_};
    Tensor grad = parameter.slot.grad();
    const Tensor place =
        bucket.buffer.slice(0, bucket.elements, bucket.elements + parameter.elements);
    in_place("copy_", place, {&grad});
    grad.record_stream(reduce_stream_);
    grad.set_data(place.view(grad.sizes()));
  }
  bucket.members.push_back(i);
  bucket.elements += parameter.elements;
}

void Zero3::reduce(Dtype type) {
  Runtime& runtime = Runtime::current();
  Bucket& bucket = *std::find_if(buckets_.begin(), buckets_.end(),
                                 [&](const Bucket& candidate) { return candidate.type == type; });
  if (bucket.members.empty()) {
    return;
  }
  const OpScope scope{"zero3.reduce_scatter"};
  if (reduce_events_.size() > kEventsAhead) {
    runtime.host_wait(reduce_events_.front());
    reduce_events_.pop_front();
  }
  const StreamGuard on{reduce_stream_};
  std::sort(bucket.members.begin(), bucket.members.end());
  TensorList grads;
  for (const std::size_t i : bucket.members) {
    grads.push_back(parameters_[i].slot.grad().to(type));
  }
  TensorList parts = reduce_scatter(grads);
  if (type != dtype_) {
    TensorList wide;
    for (const Tensor& part : parts) {
      wide.push_back(part.to(dtype_));
    }
    parts = std::move(wide);
  }
  grads.clear();
  for (std::size_t k = 0; k < bucket.members.size(); ++k) {
    const std::size_t i = bucket.members[k];
    Tensor grad = parameters_[i].slot.grad();
    if (parameters_[i].shard * rank_ < parameters_[i].elements) {
      in_place("add_", grad_shard(i), {&parts[k]});
      grad.record_stream(reduce_stream_);
    }
    parameters_[i].slot.set_grad({});
  }
  bucket.members.clear();
  bucket.elements = 0;
  reduce_events_.push_back(runtime.record_event(reduce_stream_));
  release_backwards(parts);
}

/// reduce_scatter_coalesced: all ranks' pieces side by side in one tensor, padded; one gradient
/// that needs no padding is reduced where it lies. Gives this rank's pieces.
TensorList Zero3::reduce_scatter(const TensorList& grads) const {
  Runtime& runtime = Runtime::current();
  const Dtype type = grads.front().dtype();
  Tensor flat;
  std::int64_t length = 0;
  for (const Tensor& grad : grads) {
    length += chunk_of(grad.numel(), ranks_, 0).padded;
  }
  if (grads.size() == 1 && grads.front().numel() % ranks_ == 0) {
    flat = grads.front().view({grads.front().numel()});
  } else {
    TensorList padding;
    for (std::int64_t rank = 0; rank < ranks_; ++rank) {
      for (const Tensor& grad : grads) {
        const Chunk chunk = chunk_of(grad.numel(), ranks_, rank);
        if (chunk.length < chunk.padded) {
          padding.push_back(empty({chunk.padded - chunk.length}, type));
        }
      }
    }
    flat = empty({length * ranks_}, type, Category::communication);
    runtime.launch({KernelCost::Kind::copy, type, 0, 2 * flat.nbytes().count()});
    release_backwards(padding);
  }
  runtime.collective({.kind = CollectiveCost::Kind::reduce_scatter,
                      .world = ranks_,
                      .bytes = flat.nbytes().count()});
  TensorList parts;
  std::int64_t at = length * rank_;
  for (const Tensor& grad : grads) {
    const Chunk chunk = chunk_of(grad.numel(), ranks_, rank_);
    parts.push_back(flat.slice(0, at, at + chunk.length));
    at += chunk.padded;
  }
  return parts;
}

void Zero3::epilogue() {
  for (const Bucket& bucket : buckets_) {
    reduce(bucket.type);
  }
  Runtime& runtime = Runtime::current();
  runtime.host_wait(runtime.record_event(reduce_stream_));
}

// -- step -----------------------------------------------------------------------------------------

Tensor Zero3::grad_shard(std::size_t i) const {
  return grads_.slice(0, parameters_[i].begin, parameters_[i].begin + parameters_[i].shard);
}

void Zero3::partition_all() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const auto found = std::find_if(inflight_.begin(), inflight_.end(),
                                    [&](const auto& entry) { return entry.first == i; });
    if (found != inflight_.end()) {
      const std::shared_ptr<Gather> gathering = std::move(found->second);
      inflight_.erase(found);
      wait(*gathering);
    }
    parameters_[i].active.clear();
    release(parameters_[i]);
  }
}

void Zero3::check_overflow() {
  const OpScope scope{"zero3.check_overflow"};
  Tensor flag;
  {
    const StreamGuard on{reduce_stream_};
    {
      Tensor magnitude = pointwise("abs", {&grads_}, dtype_);
      Tensor infinite = pointwise("eq", {&magnitude}, Dtype::boolean);
      magnitude.reset();
      const Tensor found = any(std::move(infinite));
      in_place("logical_or_", overflow_, {&found});
    }
    {
      const Tensor found = any(pointwise("ne", {&grads_, &grads_}, Dtype::boolean));
      in_place("logical_or_", overflow_, {&found});
    }
    flag = clone(overflow_).to(Dtype::uint8);
  }
  wait_stream(Runtime::current().stream, reduce_stream_);
  read_back();
}

void Zero3::step() {
  const OpScope scope{"zero3.step"};
  const Tensor norm_before = std::move(norm_);  // the engine's, until the step is over
  partition_all();
  if (dtype_ == Dtype::float16) {
    check_overflow();
  }
  TensorList group_norms;
  for (const std::vector<std::size_t>& group : groups_) {
    TensorList norms;
    for (const std::size_t i : group) {
      norms.push_back(grad_norm(grad_shard(i)));
    }
    group_norms.push_back(total_norm_of_shards(std::move(norms)));
  }
  Tensor norm = combine_grad_norms(group_norms);
  check_grad_norm(norm);
  norm_ = pointwise("div", {&norm}, norm.dtype());
  for (std::size_t group = 0; group < groups_.size(); ++group) {
    step_sub_group(group, norm);
  }
  gather_persistent();
  norm.reset();
  release_backwards(group_norms);
}

void Zero3::step_sub_group(std::size_t group, const Tensor& norm) {
  const OpScope scope{"zero3.step"};
  Tensor& master = masters_[group];
  {
    Tensor flat = grad_shard(groups_[group].front());
    if (groups_[group].size() > 1) {
      const OpScope flattening{"zero3.flatten"};
      flat = empty({master.numel()}, dtype_, Category::gradient);
      Runtime::current().launch({KernelCost::Kind::copy, dtype_, 0, 2 * flat.nbytes().count()});
    }
    const Tensor grad = std::move(flat).to(Dtype::float32);
    grad.storage()->set_category(Category::gradient);
    master.set_grad(grad);
  }
  unscale_and_clip({master.grad()}, norm);
  inner_[group]->step();
  const std::int64_t begin = parameters_[groups_[group].front()].begin;
  in_place("copy_", shards_.slice(0, begin, begin + master.numel()), {&master});
  master.set_grad({});
}

/// Parameters that persist are there again before the next forward.
void Zero3::gather_persistent() {
  const OpScope scope{"zero3.persistent"};
  for (Parameter& parameter : parameters_) {
    if (!parameter.persists) {
      continue;
    }
    if (ranks_ == 1) {
      point_at(parameter, {});
      parameter.status = Status::available;
    } else {
      gather_now(parameter);
    }
  }
  read_back();
}

}  // namespace

std::unique_ptr<DataParallel> make_zero3(const RunSpec& spec, Module& model) {
  return std::make_unique<Zero3>(spec, model);
}

}  // namespace peakcast::torch
