#include <algorithm>
#include <vector>

#include "workloads/torch/kernels.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::torch {
namespace {

std::size_t wrapped(std::int64_t d, std::size_t dims) {
  return static_cast<std::size_t>(d < 0 ? d + static_cast<std::int64_t>(dims) : d);
}

/// One reduction kernel: the output, then scratch that dies with the call.
/// `accumulator`: bytes of what a partial result is kept in; 0: float for half types.
Tensor reduce(const Tensor& self, const Shape& dims, bool keepdim, Dtype out_dtype,
              std::int64_t accumulator = 0) {
  std::vector<bool> reduced(self.sizes().size(), dims.empty());
  for (const std::int64_t d : dims) {
    reduced[wrapped(d, reduced.size())] = true;
  }
  Shape sizes;
  for (std::size_t i = 0; i < reduced.size(); ++i) {
    if (!reduced[i]) {
      sizes.push_back(self.sizes()[i]);
    } else if (keepdim) {
      sizes.push_back(1);
    }
  }
  Tensor out = empty(sizes, out_dtype);
  if (accumulator == 0) {
    accumulator = is_half(out_dtype) ? 4 : element_size(out_dtype);
  }
  const ReductionScratch scratch = reduction_scratch(
      {self.sizes(), self.strides(), reduced, element_size(self.dtype()), accumulator},
      Runtime::current().gpu());
  // Reductions along columns read slower than those along rows.
  const bool columns = !reduced.empty() && !reduced.back();
  Runtime::current().launch(
      {.kind = columns ? KernelCost::Kind::column_reduction : KernelCost::Kind::reduction,
       .dtype = self.dtype(),
       .flops = self.numel(),
       .bytes = self.nbytes().count() + out.nbytes().count(),
       .kernels = 2});
  if (scratch.partials > Bytes{}) {
    Tensor partials = empty({scratch.partials.count()}, Dtype::uint8);
    Tensor semaphores = empty({scratch.semaphores.count()}, Dtype::uint8);
    semaphores.reset();
    partials.reset();
  }
  return out;
}

/// sum_backward: the gradient, unsqueezed and expanded; no memory.
struct SumBackward final : Node {
  SumBackward(Shape sizes, Shape reduced, bool kept)
      : self_sizes{sizes}, dims{reduced}, keepdim{kept} {}
  [[nodiscard]] const char* name() const override {
    return dims.empty() ? "SumBackward0" : "SumBackward1";
  }
  TensorList apply(TensorList& grads) override {
    Tensor grad = grads[0];
    if (!keepdim && !self_sizes.empty()) {
      std::vector<std::size_t> sorted;
      for (const std::int64_t d : dims) {
        sorted.push_back(wrapped(d, self_sizes.size()));
      }
      std::sort(sorted.begin(), sorted.end());
      for (const std::size_t d : sorted) {
        grad = grad.unsqueeze(static_cast<std::int64_t>(d));
      }
    }
    return {grad.expand(self_sizes)};
  }
  Shape self_sizes;
  Shape dims;
  bool keepdim;
};
struct MeanBackward final : Node {
  MeanBackward(Shape sizes, Shape reduced, bool kept)
      : self_sizes{sizes}, dims{reduced}, keepdim{kept} {}
  [[nodiscard]] const char* name() const override {
    return dims.empty() ? "MeanBackward0" : "MeanBackward1";
  }
  TensorList apply(TensorList& grads) override {  // sum_backward(grad) / count
    Tensor grad = grads[0];
    if (!keepdim) {
      std::vector<std::size_t> sorted;
      for (const std::int64_t d : dims) {
        sorted.push_back(wrapped(d, self_sizes.size()));
      }
      std::sort(sorted.begin(), sorted.end());
      for (const std::size_t d : sorted) {
        grad = grad.unsqueeze(static_cast<std::int64_t>(d));
      }
    }
    return {div(grad.expand(self_sizes), number(1))};
  }
  Shape self_sizes;
  Shape dims;
  bool keepdim;
};

}  // namespace

Tensor sum(Tensor self_argument, const Shape& dims, bool keepdim, std::optional<Dtype> dtype) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"sum", {&self}};
  const auto node = make_node<SumBackward>({&self}, self.sizes(), dims, keepdim);
  // autocast's list of ops with fp32 output
  const bool widened = Runtime::current().autocast.enabled && is_half(self.dtype());
  const Dtype natural = widened                     ? Dtype::float32
                        : is_floating(self.dtype()) ? self.dtype()
                                                    : Dtype::int64;
  return with_history(reduce(self, dims, keepdim, dtype.value_or(natural)), node);
}

Tensor mean(Tensor self_argument, const Shape& dims, bool keepdim) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"mean", {&self}};
  const auto node = make_node<MeanBackward>({&self}, self.sizes(), dims, keepdim);
  return with_history(reduce(self, dims, keepdim, self.dtype()), node);
}

Tensor all(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"all", {&self}};
  return reduce(self, {}, false, Dtype::boolean);
}

void item(const Tensor& self) {
  const OpScope scope{"_local_scalar_dense", {&self}};
  Runtime& runtime = Runtime::current();
  runtime.launch({KernelCost::Kind::to_host, self.dtype(), 0, self.nbytes().count()});
  runtime.synchronize_stream();
}

Tensor any(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"any", {&self}};
  return reduce(self, {}, false, Dtype::boolean);
}

Tensor amax(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"amax", {&self}};
  return reduce(self, {}, false, self.dtype(), element_size(self.dtype()));
}

Tensor amin(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"amin", {&self}};
  return reduce(self, {}, false, self.dtype(), element_size(self.dtype()));
}

Tensor vector_norm(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"linalg_vector_norm", {&self}};
  return reduce(self, {}, false, self.dtype());
}

Tensor sum_to(Tensor self_argument, const Shape& sizes) {
  Tensor self = std::move(self_argument);
  if (self.sizes() == sizes) {
    return self;
  }
  const std::size_t leading = self.sizes().size() - sizes.size();
  Shape dims;
  for (std::size_t i = 0; i < self.sizes().size(); ++i) {
    if (i < leading || (sizes[i - leading] == 1 && self.sizes()[i] != 1)) {
      dims.push_back(static_cast<std::int64_t>(i));
    }
  }
  if (!dims.empty()) {
    self = sum(self, dims, true);
  }
  return leading > 0 ? std::move(self).view(sizes) : self;
}

}  // namespace peakcast::torch
