#include <algorithm>
#include <optional>
#include <utility>

#include "workloads/parallel/zero.hpp"
#include "workloads/parallel/zero_step.hpp"

namespace peakcast::torch {
namespace {

constexpr std::int64_t kStartAlignment = 2;  // nccl_start_alignment_factor, in elements

constexpr std::int64_t round_to(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

/// DeepSpeedZeroOptimizer of stage 1 (gradients reduced at the end of the last backward) and 2
/// (as they arrive, in every backward).
class Zero12 final : public DataParallel {
 public:
  Zero12(const RunSpec& spec, Module& model);
  [[nodiscard]] TensorList parameters() override { return parameters_; }
  [[nodiscard]] std::unique_ptr<Optimizer> optimizer(OptimizerKind kind) override;
  void backward(const Tensor& loss) override;
  [[nodiscard]] bool is_engine() const override { return true; }

 private:
  /// IPGBucket: gradients on their way, of one communication type.
  struct Bucket {
    Dtype type{};     ///< on the wire; the buffer is of the parameters' type
    Tensor buffer{};  ///< kReduceBucket elements; only within a backward
    std::int64_t elements{};
    std::vector<std::size_t> members{};
    std::optional<std::size_t> extra_large{};  ///< a member that does not fit: reduced in place
  };
  /// Where a parameter lies in the flat buffer, and so in whose partitions.
  [[nodiscard]] bool ours(std::size_t i) const;
  void flatten();
  void setup_buckets();
  void ready(std::size_t i);
  void add_to_bucket(std::size_t i);
  void reduce(const std::vector<Bucket*>& buckets);
  void average(Bucket& bucket);
  void all_reduce(const Bucket& bucket, const Tensor& whole,
                  const std::vector<std::int64_t>& slices);
  void copy_grads_in_partition(std::size_t i);
  [[nodiscard]] TensorList partition_grads() const;
  [[nodiscard]] TensorList flat_partition() const;
  void reduce_gradients();
  void epilogue();
  void check_overflow() const;
  [[nodiscard]] Tensor scaled_global_norm() const;
  void step();

  bool stage2_{};
  std::int64_t ranks_{};
  std::int64_t rank_{};
  std::int64_t accumulate_{};
  std::int64_t micro_step_{};
  std::int64_t elements_{};   ///< of all parameters
  std::int64_t partition_{};  ///< of one rank, aligned
  Dtype dtype_{};
  TensorList parameters_{};
  std::vector<Dtype> wire_types_{};     ///< of each parameter's gradient
  std::vector<std::int64_t> begins_{};  ///< of each parameter in the flat buffer
  std::vector<std::size_t> in_partition_{};
  Tensor flat_{};
  Tensor master_{};  ///< this rank's partition in fp32
  std::unique_ptr<Optimizer> inner_{};
  std::vector<Bucket> buckets_{};  ///< by the name of their type
  bool ready_for_gradients_{};
  Tensor grads_in_partition_{};  ///< this rank's averaged gradients of one backward
  std::int64_t grads_offset_{};
  TensorList all_grads_{};  ///< the same over several backward passes
  TensorList averaged_{};   ///< cut to the partition, from the last backward to the step
  Tensor norm_{};           ///< _global_grad_norm
};

Zero12::Zero12(const RunSpec& spec, Module& model)
    : stage2_{spec.parallel == Parallel::zero2},
      ranks_{spec.world},
      rank_{spec.rank},
      accumulate_{spec.accumulate} {
  model.to_cuda();
  parameters_ = model.parameters();
  dtype_ = parameters_.front().dtype();
  wire_types_ = communication_types(spec, model, parameters_);
  for (const Tensor& parameter : parameters_) {
    begins_.push_back(elements_);
    elements_ += parameter.numel();
  }
  partition_ = round_to(elements_, kStartAlignment * ranks_) / ranks_;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (ours(i)) {
      in_partition_.push_back(i);
    }
  }
  for (const Dtype type : {Dtype::bfloat16, Dtype::float16, Dtype::float32}) {
    if (std::find(wire_types_.begin(), wire_types_.end(), type) != wire_types_.end()) {
      buckets_.push_back({});
      buckets_.back().type = type;
    }
  }
}

bool Zero12::ours(std::size_t i) const {
  const std::int64_t start = partition_ * rank_;
  return begins_[i] < start + partition_ && begins_[i] + parameters_[i].numel() > start;
}

std::unique_ptr<Optimizer> Zero12::optimizer(OptimizerKind kind) {
  const GradMode no_grad{false};
  flatten();
  {
    const OpScope scope{"zero.fp32_partition"};
    Tensor own = clone(flat_.slice(0, partition_ * rank_, partition_ * (rank_ + 1)));
    master_ = std::move(own).to(Dtype::float32);
    master_.storage()->set_category(Category::optimizer);
    master_.set_requires_grad(true);
  }
  {
    const OpScope scope{"zero.initialize_optimizer_states"};
    const Tensor gradient = empty({partition_}, Dtype::float32);
  }
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i]->post_accumulate_hooks.emplace_back([this, i](Tensor&) { ready(i); });
  }
  inner_ = make_optimizer(kind, {master_});
  return std::make_unique<ZeroOptimizer>(parameters_, [this] { step(); });
}

/// All parameters into one buffer, of which they become views.
void Zero12::flatten() {
  Runtime& runtime = Runtime::current();
  const OpScope scope{"zero.flatten"};
  runtime.empty_cache();
  const std::int64_t aligned = partition_ * ranks_;
  Tensor padding;
  if (aligned > elements_) {
    padding = empty({aligned - elements_}, dtype_);
  }
  flat_ = empty({aligned}, dtype_, Category::parameter);
  runtime.launch({KernelCost::Kind::copy, dtype_, 0, 2 * flat_.nbytes().count()});
  padding.reset();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Shape sizes = parameters_[i].sizes();
    parameters_[i].set_data(
        flat_.slice(0, begins_[i], begins_[i] + parameters_[i].numel()).view(sizes));
  }
}

// -- backward -------------------------------------------------------------------------------------

void Zero12::backward(const Tensor& loss) {
  const bool boundary = (micro_step_ + 1) % accumulate_ == 0;
  engine_backward(loss, accumulate_, [&] {
    const GradMode no_grad{false};
    if (stage2_) {
      epilogue();
    } else if (boundary) {
      reduce_gradients();
    }
  });
  ++micro_step_;
}

void Zero12::setup_buckets() {
  if (ready_for_gradients_) {
    return;
  }
  const OpScope scope{"zero.bucket"};
  for (Bucket& bucket : buckets_) {
    bucket.buffer = empty({kReduceBucket}, dtype_, Category::communication);
  }
  ready_for_gradients_ = true;
}

void Zero12::ready(std::size_t i) {
  const GradMode no_grad{false};
  setup_buckets();
  if (stage2_) {
    add_to_bucket(i);
  }
}

void Zero12::add_to_bucket(std::size_t i) {
  const OpScope scope{"zero.bucket"};
  Bucket& bucket = *std::find_if(buckets_.begin(), buckets_.end(), [&](const Bucket& candidate) {
    return candidate.type == wire_types_[i];
  });
  const std::int64_t length = parameters_[i].numel();
  if (bucket.elements + length > kReduceBucket) {
    reduce({&bucket});
  }
  Tensor grad = parameters_[i].grad();
  if (length > kReduceBucket) {
    bucket.extra_large = i;
  } else {
    const Tensor place = bucket.buffer.slice(0, bucket.elements, bucket.elements + length);
    in_place("copy_", place, {&grad});
    grad.set_data(place.view(grad.sizes()));
  }
  bucket.elements += length;
  bucket.members.push_back(i);
}

void Zero12::reduce(const std::vector<Bucket*>& buckets) {
  const OpScope scope{"zero.reduce"};
  for (Bucket* bucket : buckets) {
    average(*bucket);
  }
  for (Bucket* bucket : buckets) {
    for (const std::size_t i : bucket->members) {
      if (ours(i)) {
        copy_grads_in_partition(i);
      } else if (stage2_) {
        parameters_[i].set_grad({});
      }
    }
    bucket->members.clear();
    bucket->elements = 0;
  }
}

/// average_tensor: the bucket's stretches that belong to one rank each, reduced together.
void Zero12::average(Bucket& bucket) {
  Tensor whole;
  if (bucket.extra_large) {
    const Tensor grad = parameters_[*bucket.extra_large].grad();
    whole = grad.view({grad.numel()});
    bucket.extra_large.reset();
  } else {
    whole = bucket.buffer.slice(0, 0, bucket.elements);
  }
  std::vector<std::int64_t> slices;
  std::int64_t before = -1;
  for (const std::size_t i : bucket.members) {
    const std::int64_t end = begins_[i] + parameters_[i].numel();
    for (std::int64_t at = begins_[i]; at < end;) {
      const std::int64_t owner = at / partition_;
      const std::int64_t length = std::min(end, (owner + 1) * partition_) - at;
      if (owner == before) {
        slices.back() += length;
      } else {
        slices.push_back(length);
      }
      before = owner;
      at += length;
    }
  }
  in_place("div_", whole);
  // allreduce_and_scatter: no more than a bucket at once.
  std::vector<std::int64_t> together;
  std::int64_t length = 0;
  for (const std::int64_t slice : slices) {
    together.push_back(slice);
    length += slice;
    if (length > kReduceBucket) {
      all_reduce(bucket, whole, together);
      together.clear();
      length = 0;
    }
  }
  if (!together.empty()) {
    all_reduce(bucket, whole, together);
  }
}

/// One stretch is reduced where it lies; several are first copied into one tensor.
void Zero12::all_reduce(const Bucket& bucket, const Tensor& whole,
                        const std::vector<std::int64_t>& slices) {
  std::int64_t length = 0;
  for (const std::int64_t slice : slices) {
    length += slice;
  }
  Runtime& runtime = Runtime::current();
  const OpScope scope{"zero.all_reduce"};
  Tensor flat = whole.slice(0, 0, length);
  if (slices.size() > 1) {
    flat = empty({length}, dtype_, Category::communication);
    runtime.launch({KernelCost::Kind::copy, dtype_, 0, 2 * flat.nbytes().count()});
  }
  const Tensor reduced = flat.to(bucket.type);
  runtime.collective({.kind = CollectiveCost::Kind::all_reduce,
                      .world = ranks_,
                      .bytes = reduced.nbytes().count()});
  if (!reduced.is_same(flat)) {
    in_place("copy_", flat, {&reduced});
  }
  flat.reset();
  in_place("copy_", whole.slice(0, 0, length), {&reduced});
}

void Zero12::copy_grads_in_partition(std::size_t i) {
  if (!grads_in_partition_.defined()) {
    std::int64_t length = 0;
    for (const std::size_t member : in_partition_) {
      length += parameters_[member].numel();
    }
    grads_in_partition_ = empty({length}, dtype_, Category::gradient);
    grads_offset_ = 0;
  }
  Tensor grad = parameters_[i].grad();
  const Tensor place = grads_in_partition_.slice(0, grads_offset_, grads_offset_ + grad.numel());
  in_place("copy_", place, {&grad});
  grad.set_data(place.view(grad.sizes()));
  grads_offset_ += grad.numel();
}

TensorList Zero12::partition_grads() const {
  TensorList grads;
  for (const std::size_t i : in_partition_) {
    grads.push_back(parameters_[i].grad());
    if (!grads.back().defined()) {  // of a parameter that was not used
      grads.back() = empty(parameters_[i].sizes(), dtype_, Category::gradient);
    }
  }
  return grads;
}

/// get_flat_partition: what of these gradients is this rank's, and zeros at the last rank's end.
TensorList Zero12::flat_partition() const {
  TensorList pieces;
  std::int64_t length = 0;
  for (std::size_t k = 0; k < in_partition_.size(); ++k) {
    const std::int64_t skip =
        std::max<std::int64_t>(0, partition_ * rank_ - begins_[in_partition_[k]]);
    const std::int64_t take = std::min(all_grads_[k].numel() - skip, partition_ - length);
    pieces.push_back(all_grads_[k].view({all_grads_[k].numel()}).slice(0, skip, skip + take));
    length += take;
  }
  if (length < partition_) {
    pieces.push_back(empty({partition_ - length}, dtype_));
  }
  return pieces;
}

/// Stage 1, after the last backward of a step: all gradients, in the order of the parameters.
void Zero12::reduce_gradients() {
  Tensor grad;  // the loop's name keeps the last one
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    grad = parameters_[i].grad();
    if (grad.defined()) {
      add_to_bucket(i);
    }
  }
  epilogue();
}

void Zero12::epilogue() {
  const OpScope scope{"zero.epilogue"};
  std::vector<Bucket*> all;
  for (Bucket& bucket : buckets_) {
    all.push_back(&bucket);
  }
  reduce(all);
  TensorList fresh;
  if (all_grads_.empty()) {
    all_grads_ = partition_grads();
  } else {
    fresh = partition_grads();
    for (std::size_t i = 0; i < fresh.size(); ++i) {
      in_place("add_", all_grads_[i], {&fresh[i]});
    }
  }
  if ((micro_step_ + 1) % accumulate_ == 0) {
    averaged_ = flat_partition();
    all_grads_.clear();
  }
  for (Bucket& bucket : buckets_) {
    bucket.buffer.reset();
  }
  grads_in_partition_.reset();
  ready_for_gradients_ = false;
  for (Tensor& parameter : parameters_) {
    parameter.set_grad({});
  }
}

// -- step -----------------------------------------------------------------------------------------

void Zero12::check_overflow() const {
  const OpScope scope{"zero.check_overflow"};
  Tensor flag;
  {
    const Tensor count = empty({1}, Dtype::float32);
    for (const Tensor& grad : averaged_) {
      const Tensor found = has_inf_or_nan(grad);
      in_place("add_", count, {&found});
    }
    flag = pointwise("ne", {&count}, Dtype::boolean);
  }
  const Tensor byte = flag.to(Dtype::uint8);
  read_back();
  flag.reset();
}

Tensor Zero12::scaled_global_norm() const {
  TensorList norms;
  for (std::size_t i = 0; i < std::min(averaged_.size(), in_partition_.size()); ++i) {
    norms.push_back(grad_norm(averaged_[i]));
  }
  return combine_grad_norms({total_norm(std::move(norms), ranks_)});
}

void Zero12::step() {
  Runtime& runtime = Runtime::current();
  const OpScope scope{"zero.step"};
  if (dtype_ != Dtype::float32) {
    check_overflow();
  }
  const Tensor norm_before = std::move(norm_);  // the engine's, until the step is over
  const Tensor norm = scaled_global_norm();
  check_grad_norm(norm);
  norm_ = pointwise("div", {&norm}, Dtype::float32);
  Tensor grad;
  {
    Tensor flat = averaged_.front();
    if (averaged_.size() > 1) {
      const OpScope flattening{"zero.flatten"};
      flat = empty({partition_}, dtype_, Category::gradient);
      runtime.launch({KernelCost::Kind::copy, dtype_, 0, 2 * flat.nbytes().count()});
    }
    grad = std::move(flat).to(Dtype::float32);
    grad.storage()->set_category(Category::gradient);
  }
  master_.set_grad(grad);
  release_backwards(averaged_);
  check_grad_norm(norm);
  unscale_and_clip({grad}, norm);
  inner_->step();
  master_.set_grad({});
  grad.reset();
  in_place("copy_", flat_.slice(0, partition_ * rank_, partition_ * (rank_ + 1)), {&master_});
  if (ranks_ > 1) {
    runtime.collective({.kind = CollectiveCost::Kind::all_gather,
                        .world = ranks_,
                        .bytes = flat_.nbytes().count()});
  }
}

}  // namespace

std::unique_ptr<DataParallel> make_zero12(const RunSpec& spec, Module& model) {
  return std::make_unique<Zero12>(spec, model);
}

}  // namespace peakcast::torch
