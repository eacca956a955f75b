#include "workloads/parallel/zero3_coordinator.hpp"

#include <algorithm>
#include <functional>
#include <unordered_map>

#include "workloads/parallel/zero_step.hpp"

namespace peakcast::torch {
namespace {

// DeepSpeed's defaults, in elements.
constexpr std::int64_t kPrefetch = 50'000'000;          // stage3_prefetch_bucket_size
constexpr std::int64_t kMaxLive = 1'000'000'000;        // stage3_max_live_parameters
constexpr std::int64_t kReuseDistance = 1'000'000'000;  // stage3_max_reuse_distance
constexpr std::size_t kEventsAhead = 2;  // max_ongoing_fetch_events, max_param_reduce_events

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

}  // namespace

Zero3Coordinator::Zero3Coordinator(Module& model, std::vector<Parameter> parameters,
                                   std::vector<Dtype> types, std::int64_t ranks)
    : parameters_{std::move(parameters)},
      types_{std::move(types)},
      ranks_{ranks},
      dtype_{parameters_.front().slot.dtype()},
      gather_stream_{Runtime::current().make_stream()} {
  std::unordered_map<const TensorImpl*, std::size_t> index_of;  // never iterated
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    index_of.emplace(parameters_[i].slot.impl(), i);
  }
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

void Zero3Coordinator::hook(Module& model) {
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
void Zero3Coordinator::enter(std::size_t module, const std::vector<Tensor*>& arguments) {
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
void Zero3Coordinator::leave(std::size_t module, TensorList& outputs) {
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

/// Before every forward of the whole model.
void Zero3Coordinator::reset_step() {
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

void Zero3Coordinator::fetch(std::size_t module, bool forward) {
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
void Zero3Coordinator::prefetch(const Hooked& module) {
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
void Zero3Coordinator::gather(const std::vector<std::size_t>& wanted) {
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
  for (const Dtype type : types_) {
    Gather::Part part{.type = type};
    std::int64_t elements = 0;
    for (const std::size_t i : missing) {
      if (parameters_[i].wire == type) {
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
      part.buffer = empty({elements * ranks_}, type, Category::parameter);
      TensorList casts;  // of the shards, for the call
      for (const std::size_t i : part.members) {
        if (type != dtype_) {
          casts.push_back(shard(i).to(type));
        }
      }
      release_backwards(casts);
      runtime.collective({.kind = CollectiveCost::Kind::all_gather,
                          .world = ranks_,
                          .bytes = part.buffer.nbytes().count()});
    }
    if (!gathering->coalesced && type == dtype_) {
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
void Zero3Coordinator::wait(Gather& gathering) {
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
void Zero3Coordinator::point_at(Parameter& parameter, const Tensor& buffer) const {
  const Tensor source = buffer.defined()
                            ? buffer
                            : shards_.slice(0, parameter.begin, parameter.begin + parameter.shard);
  parameter.slot.set_data(source.slice(0, 0, parameter.elements).view(parameter.sizes));
}

Tensor Zero3Coordinator::shard(std::size_t i) const {
  return shards_.slice(0, parameters_[i].begin, parameters_[i].begin + parameters_[i].shard);
}

void Zero3Coordinator::gather_now(Parameter& parameter) {
  const OpScope scope{"zero3.all_gather"};
  const Tensor buffer = empty({parameter.shard * ranks_}, dtype_, Category::parameter);
  Runtime::current().collective({.kind = CollectiveCost::Kind::all_gather,
                                 .world = ranks_,
                                 .bytes = buffer.nbytes().count()});
  point_at(parameter, buffer);
  parameter.status = Status::available;
}

void Zero3Coordinator::release(Parameter& parameter) {
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
const std::vector<std::size_t>& Zero3Coordinator::may_go(std::size_t module) {
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

void Zero3Coordinator::release(std::size_t module, bool forward) {
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

void Zero3Coordinator::end_backward() {
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
}

void Zero3Coordinator::partition_all() {
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

/// Parameters that persist are there again before the next forward.
void Zero3Coordinator::gather_persistent() {
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

}  // namespace peakcast::torch
