#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "workloads/parallel/zero.hpp"
#include "workloads/parallel/zero3_coordinator.hpp"
#include "workloads/parallel/zero_step.hpp"

namespace peakcast::torch {
namespace {

// DeepSpeed's defaults, in elements.
constexpr std::int64_t kPersistence = 100'000;     // stage3_param_persistence_threshold
constexpr std::int64_t kSubGroup = 1'000'000'000;  // sub_group_size
constexpr std::size_t kEventsAhead = 2;  // max_ongoing_fetch_events, max_param_reduce_events

/// DeepSpeedZeroOptimizer_Stage3.
class Zero3 final : public DataParallel {
 public:
  Zero3(const RunSpec& spec, Module& model);
  [[nodiscard]] TensorList parameters() override { return slots_; }
  [[nodiscard]] std::unique_ptr<Optimizer> optimizer(OptimizerKind kind) override;
  void backward(const Tensor& loss) override;
  [[nodiscard]] bool is_engine() const override { return true; }

 private:
  using Parameter = Zero3Coordinator::Parameter;

  // initialization
  void barrier();
  void partition();
  void create_fp32_partitions();
  void create_hooks();
  [[nodiscard]] std::vector<Parameter>& all() { return coordinator_->parameters(); }
  [[nodiscard]] const std::vector<Parameter>& all() const { return coordinator_->parameters(); }
  // gradients
  void ready(std::size_t i);
  void reduce(Dtype type);
  [[nodiscard]] TensorList reduce_scatter(const TensorList& grads) const;
  void epilogue();
  // step
  void check_overflow();
  void step();
  void step_sub_group(std::size_t group, const Tensor& norm);
  [[nodiscard]] Tensor grad_shard(std::size_t i) const;

  std::int64_t ranks_{};
  std::int64_t rank_{};
  std::int64_t accumulate_{};
  Dtype dtype_{};
  TensorList slots_{};
  std::unique_ptr<Zero3Coordinator> coordinator_{};
  StreamId reduce_stream_{};

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

  Tensor norm_{};  ///< _global_grad_norm
};

// -- initialization -------------------------------------------------------------------------------

Zero3::Zero3(const RunSpec& spec, Module& model)
    : ranks_{spec.world}, rank_{spec.rank}, accumulate_{spec.accumulate} {
  Runtime& runtime = Runtime::current();
  model.to_cuda();
  slots_ = model.parameters();
  dtype_ = slots_.front().dtype();
  const std::vector<Dtype> wire = communication_types(spec, model, slots_);
  std::vector<Parameter> parameters;
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
    accumulators_.push_back(grad_accumulator(slots_[i]));
    parameters.push_back(std::move(parameter));
  }
  std::vector<Dtype> types;
  for (const Dtype type : {Dtype::bfloat16, Dtype::float16, Dtype::float32}) {
    if (std::find(wire.begin(), wire.end(), type) != wire.end()) {
      types.push_back(type);
      buckets_.push_back({});
      buckets_.back().type = type;
    }
  }
  coordinator_ =
      std::make_unique<Zero3Coordinator>(model, std::move(parameters), std::move(types), ranks_);
  reduce_stream_ = runtime.make_stream();
  runtime.memory_efficient_linear = true;
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
    grads_ = empty({coordinator_->shards().numel()}, dtype_, Category::gradient);
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
    for (Parameter& parameter : all()) {
      runtime.collective({.kind = CollectiveCost::Kind::broadcast,
                          .world = ranks_,
                          .bytes = parameter.slot.nbytes().count()});
      pieces.push_back(empty({parameter.shard}, dtype_, Category::parameter));
      in_place("copy_", pieces.back());
      parameter.slot.set_data(empty({0}, dtype_));
      parameter.status = Zero3Coordinator::Status::not_available;
    }
    overflow_ = empty({1}, Dtype::boolean);
  }
  barrier();
  const OpScope scope{"zero3.defragment"};
  const Parameter& last = all().back();
  for (Tensor& piece : pieces) {
    piece.reset();
  }
  runtime.empty_cache();
  coordinator_->set_shards(
      to_device(host_tensor({last.begin + last.shard}, dtype_), Category::parameter));
}

void Zero3::create_fp32_partitions() {
  // Sub-groups of at least so many elements of this rank, and one of the rest.
  std::int64_t length = 0;
  groups_.emplace_back();
  for (std::size_t i = 0; i < all().size(); ++i) {
    groups_.back().push_back(i);
    length += all()[i].shard;
    if (length >= kSubGroup && i + 1 < all().size()) {
      groups_.emplace_back();
      length = 0;
    }
  }
  const OpScope scope{"zero3.fp32_partitions"};
  Tensor converted;
  for (const std::vector<std::size_t>& group : groups_) {
    const Tensor flat = coordinator_->shards().slice(
        0, all()[group.front()].begin, all()[group.back()].begin + all()[group.back()].shard);
    Tensor next = flat.to(Dtype::float32);
    converted = std::move(next);
    masters_.push_back(clone(converted));
    masters_.back().storage()->set_category(Category::optimizer);
    masters_.back().set_requires_grad(true);
  }
}

/// A parameter is gathered for its gradient's hook to be made.
void Zero3::create_hooks() {
  for (std::size_t i = 0; i < all().size(); ++i) {
    coordinator_->gather_now(all()[i]);
    all()[i].slot->post_accumulate_hooks.emplace_back([this, i](Tensor&) { ready(i); });
    coordinator_->release(all()[i]);
  }
  coordinator_->forget_available();
}

// -- backward -------------------------------------------------------------------------------------

void Zero3::backward(const Tensor& loss) {
  engine_backward(loss, accumulate_, [this] {
    const GradMode no_grad{false};
    epilogue();
    coordinator_->end_backward();
  });
}

void Zero3::ready(std::size_t i) {
  const GradMode no_grad{false};
  Runtime& runtime = Runtime::current();
  const OpScope scope{"zero3.bucket"};
  Parameter& parameter = all()[i];
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
    grads.push_back(all()[i].slot.grad().to(type));
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
    Tensor grad = all()[i].slot.grad();
    if (all()[i].shard * rank_ < all()[i].elements) {
      in_place("add_", grad_shard(i), {&parts[k]});
      grad.record_stream(reduce_stream_);
    }
    all()[i].slot.set_grad({});
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
  return grads_.slice(0, all()[i].begin, all()[i].begin + all()[i].shard);
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
  coordinator_->partition_all();
  if (dtype_ == Dtype::float16) {
    check_overflow();
  }
  TensorList group_norms;
  for (const std::vector<std::size_t>& group : groups_) {
    TensorList norms;
    for (const std::size_t i : group) {
      norms.push_back(grad_norm(grad_shard(i)));
    }
    group_norms.push_back(total_norm_of_shards(std::move(norms), ranks_));
  }
  Tensor norm = combine_grad_norms(group_norms);
  check_grad_norm(norm);
  norm_ = pointwise("div", {&norm}, norm.dtype());
  for (std::size_t group = 0; group < groups_.size(); ++group) {
    step_sub_group(group, norm);
  }
  coordinator_->gather_persistent();
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
  const std::int64_t begin = all()[groups_[group].front()].begin;
  in_place("copy_", coordinator_->shards().slice(0, begin, begin + master.numel()), {&master});
  master.set_grad({});
}

}  // namespace

std::unique_ptr<DataParallel> make_zero3(const RunSpec& spec, Module& model) {
  return std::make_unique<Zero3>(spec, model);
}

}  // namespace peakcast::torch
