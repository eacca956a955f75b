#include "workloads/parallel/ddp.hpp"

#include <algorithm>
#include <deque>
#include <map>

namespace peakcast::torch {
namespace {

using namespace literals;

constexpr Bytes kBroadcastBucket = 250_MiB;  // DistributedDataParallel.broadcast_bucket_size
constexpr std::size_t kBroadcastsInFlight = 2;

class Ddp final : public DataParallel {
 public:
  Ddp(const RunSpec& spec, Module& model);
  [[nodiscard]] TensorList parameters() override { return parameters_; }
  void begin_iteration() override {
    finished_.insert(finished_.end(), in_flight_.begin(), in_flight_.end());
    in_flight_.clear();
  }
  void before_forward() override;
  void set_gradient_sync(bool on) override { sync_ = on; }

 private:
  struct Bucket {
    Tensor flat{};
    std::vector<std::size_t> parameters{};
    std::size_t pending{};
  };
  void check_shapes();
  void broadcast(const TensorList& tensors);
  void make_buckets(std::vector<std::vector<std::size_t>> buckets);
  void let_go_of_finished() { finished_.clear(); }
  void ready(std::size_t parameter);
  void finalize();

  std::int64_t world_{};
  bool view_{};
  Bytes cap_{};
  bool sync_{true};
  TensorList parameters_{};
  TensorList buffers_{};
  std::vector<Ref<AccumulateGrad>> accumulators_{};
  std::vector<Bucket> buckets_{};
  std::vector<std::size_t> bucket_of_{};  // by parameter
  TensorList views_{};                    // by parameter: its place in its bucket
  std::vector<std::size_t> ready_order_{};
  bool rebuilt_{};
  std::size_t buckets_left_{};
  bool started_{};
  StreamId nccl_stream_{};
  /// ProcessGroupNCCL keeps a collective's tensors until somebody waits for the work itself. DDP
  /// waits for its future, so that falls to the watchdog thread: it looks every 100 ms for what has
  /// finished, and the next collective lets go of that. A step's micro-batches follow each other
  /// faster; from one step to the next, and above all after the first with its loading of kernels,
  /// the watchdog has looked. It matters for the buckets that a rebuild replaces.
  /// Source: PyTorch 2.11, ProcessGroupNCCL.cpp (stashed_for_allocator_safety_,
  /// shelvesToUnstash_); seen in a recording of GPT-2 with two micro-batches.
  TensorList in_flight_{};
  TensorList finished_{};
};

Ddp::Ddp(const RunSpec& spec, Module& model)
    : world_{spec.world}, view_{spec.bucket_view}, cap_{spec.bucket_mb * 1_MiB} {
  model.to_cuda();
  const GradMode no_grad{false};
  nccl_stream_ = Runtime::current().make_stream();
  parameters_ = model.parameters();
  for (Module* module : model.modules()) {
    for (const Module::Named& buffer : module->own_buffers) {
      buffers_.push_back(buffer.tensor);
    }
  }
  check_shapes();
  TensorList states = parameters_;
  states.insert(states.end(), buffers_.begin(), buffers_.end());
  broadcast(states);
  make_buckets(buckets_by_size(parameters_, Bytes{INT64_MAX}));
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    accumulators_.push_back(grad_accumulator(parameters_[i]));
    accumulators_.back()->post_hooks.emplace_back(
        [this, i](TensorList& /*outputs*/, const TensorList& /*inputs*/) { ready(i); });
  }
}

/// _verify_param_shape_across_processes: the number of parameters from all ranks, then rank 0's
/// sizes and strides.
void Ddp::check_shapes() {
  const OpScope scope{"ddp.verify_params"};
  Locals locals;
  Tensor& count = locals.add(empty({1}, Dtype::int64));
  TensorList counts;
  for (std::int64_t rank = 0; rank < world_; ++rank) {
    counts.push_back(empty_like(count));
  }
  {
    const Tensor gathered = empty({world_}, Dtype::int64, Category::communication);
    Runtime::current().collective({.kind = CollectiveCost::Kind::all_gather,
                                   .world = world_,
                                   .bytes = gathered.nbytes().count()});
  }
  std::int64_t numbers = 0;
  for (const Tensor& parameter : parameters_) {
    numbers += 2 * parameter.dim();
  }
  { const Tensor metadata = empty({numbers}, Dtype::int64); }
  for (Tensor& each : counts) {
    each.reset();
  }
}

/// broadcast_coalesced: tensors are flattened bucket by bucket, two of them in flight.
void Ddp::broadcast(const TensorList& tensors) {
  const OpScope scope{"ddp.broadcast_coalesced"};
  std::deque<Tensor> in_flight;
  for (const std::vector<std::size_t>& bucket : buckets_by_size(tensors, kBroadcastBucket)) {
    if (in_flight.size() >= kBroadcastsInFlight) {
      in_flight.pop_front();
    }
    TensorList pieces;
    for (const std::size_t i : bucket) {
      pieces.push_back(tensors[i].detach().view({tensors[i].numel()}));
    }
    in_flight.push_back(cat(pieces, 0));
    in_flight.back().storage()->set_category(Category::communication);
    Runtime::current().collective({.kind = CollectiveCost::Kind::broadcast,
                                   .world = world_,
                                   .bytes = in_flight.back().nbytes().count()});
  }
  while (!in_flight.empty()) {
    in_flight.pop_front();
  }
}

void Ddp::make_buckets(std::vector<std::vector<std::size_t>> buckets) {
  const OpScope scope{"ddp.buckets"};
  buckets_.clear();
  views_.assign(parameters_.size(), {});
  bucket_of_.assign(parameters_.size(), 0);
  for (std::vector<std::size_t>& members : buckets) {
    std::int64_t elements = 0;
    for (const std::size_t i : members) {
      elements += parameters_[i].numel();
    }
    Bucket bucket;
    bucket.flat = empty({elements}, parameters_[members.front()].dtype(),
                        view_ ? Category::gradient : Category::communication);
    std::int64_t at = 0;
    for (const std::size_t i : members) {
      const std::int64_t length = parameters_[i].numel();
      views_[i] = bucket.flat.slice(0, at, at + length).view(parameters_[i].sizes());
      bucket_of_[i] = buckets_.size();
      at += length;
    }
    bucket.parameters = std::move(members);
    buckets_.push_back(std::move(bucket));
  }
}

void Ddp::before_forward() {
  const GradMode no_grad{false};
  if (!rebuilt_ && ready_order_.size() == parameters_.size()) {
    rebuilt_ = true;
    TensorList in_order;
    for (const std::size_t i : ready_order_) {
      in_order.push_back(parameters_[i]);
    }
    std::vector<std::vector<std::size_t>> buckets = buckets_by_size(in_order, cap_);
    for (std::vector<std::size_t>& bucket : buckets) {
      for (std::size_t& i : bucket) {
        i = ready_order_[i];
      }
    }
    {
      // sync_bucket_indices: rank 0's assignment for all.
      const OpScope scope{"ddp.sync_bucket_indices"};
      let_go_of_finished();
      const Tensor indices =
          empty({static_cast<std::int64_t>(parameters_.size()) + 1}, Dtype::int32);
      const Tensor sizes = empty({static_cast<std::int64_t>(buckets.size())}, Dtype::int32);
    }
    make_buckets(std::move(buckets));
  }
  if (!buffers_.empty()) {
    broadcast(buffers_);
  }
}

/// A parameter's gradient has been accumulated.
void Ddp::ready(std::size_t parameter) {
  if (!sync_) {
    return;
  }
  const GradMode no_grad{false};
  const OpScope scope{"ddp.copy_to_bucket"};
  Runtime& runtime = Runtime::current();
  if (!started_) {
    started_ = true;
    buckets_left_ = buckets_.size();
    for (Bucket& bucket : buckets_) {
      bucket.pending = bucket.parameters.size();
    }
  }
  if (!rebuilt_ && ready_order_.size() < parameters_.size()) {
    ready_order_.push_back(parameter);
  }
  Tensor& tensor = parameters_[parameter];
  Tensor grad = tensor.grad();
  const Tensor& view = views_[parameter];
  const bool in_bucket = grad.defined() && grad.storage() == view.storage();
  if (!in_bucket) {
    in_place("mul_out", view, {&grad});  // divided by the ranks on the way
  }
  if (view_ && !in_bucket) {
    grad.reset();
    tensor.set_grad(view);
  }
  Bucket& bucket = buckets_[bucket_of_[parameter]];
  if (--bucket.pending == 0) {
    wait_stream(nccl_stream_, runtime.stream);
    {
      const StreamGuard on{nccl_stream_};
      const OpScope all_reduce{"ddp.all_reduce"};
      let_go_of_finished();
      in_flight_.push_back(bucket.flat);
      runtime.collective({.kind = CollectiveCost::Kind::all_reduce,
                          .world = world_,
                          .bytes = bucket.flat.nbytes().count()});
    }
    if (--buckets_left_ == 0) {
      runtime.engine().queue_callback([this] { finalize(); });
    }
  }
}

void Ddp::finalize() {
  const GradMode no_grad{false};
  const OpScope scope{"ddp.copy_from_bucket"};
  started_ = false;
  wait_stream(Runtime::current().stream, nccl_stream_);
  if (view_) {
    return;
  }
  for (const Bucket& bucket : buckets_) {
    for (const std::size_t i : bucket.parameters) {
      in_place("copy_", parameters_[i].grad(), {&views_[i]});
    }
  }
}

}  // namespace

std::vector<std::vector<std::size_t>> buckets_by_size(const TensorList& tensors, Bytes cap) {
  struct Open {
    std::vector<std::size_t> members{};
    Bytes size{};
  };
  std::map<Dtype, Open> open;
  std::vector<std::vector<std::size_t>> closed;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    Open& bucket = open[tensors[i].dtype()];
    bucket.members.push_back(i);
    bucket.size += tensors[i].nbytes();
    if (bucket.size >= cap) {
      closed.push_back(std::move(bucket.members));
      bucket = Open{};
    }
  }
  for (auto& [dtype, bucket] : open) {
    if (!bucket.members.empty()) {
      closed.push_back(std::move(bucket.members));
    }
  }
  // Left-over buckets go where their first tensor is.
  std::stable_sort(closed.begin(), closed.end(),
                   [](const auto& a, const auto& b) { return a.front() < b.front(); });
  return closed;
}

std::unique_ptr<DataParallel> make_ddp(const RunSpec& spec, Module& model) {
  return std::make_unique<Ddp>(spec, model);
}

}  // namespace peakcast::torch
