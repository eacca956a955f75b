#include <algorithm>
#include <vector>

#include "workloads/torch/kernels.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::torch {
namespace {

Tensor made(const Shape& sizes, const Shape& strides, Dtype dtype, Device device,
            Category category) {
  Ref<TensorImpl> impl = make_ref<TensorImpl>();
  impl->sizes = sizes;
  impl->strides = strides;
  impl->dtype = dtype;
  impl->storage = make_ref<Storage>(Bytes{sizes.numel() * element_size(dtype)}, device, category);
  return Tensor{std::move(impl)};
}

std::int64_t traffic(std::initializer_list<const Tensor*> inputs, const Tensor& out) {
  std::int64_t bytes = out.nbytes().count();
  for (const Tensor* input : inputs) {
    if (input->defined() && !input->impl()->wrapped_number) {
      bytes += input->nbytes().count();
    }
  }
  return bytes;
}

/// Which of TensorIterator's kernels runs. Source: PyTorch,
/// aten/src/ATen/native/cuda/CUDALoops.cuh: vectorized when all operands are laid out as the result
/// and of its type, unrolled with casts when only the types differ, with index arithmetic
/// otherwise. (Narrowing copies are vectorized.)
KernelCost::Access access_of(std::initializer_list<const Tensor*> inputs, const Tensor& out) {
  bool converting = false;
  for (const Tensor* input : inputs) {
    if (!input->defined() || input->impl()->wrapped_number) {
      continue;
    }
    if (!(input->sizes() == out.sizes()) || !(input->strides() == out.strides()) ||
        !out.is_non_overlapping_and_dense()) {
      return KernelCost::Access::indexed;
    }
    converting = converting ||
                 (input->dtype() != out.dtype() && (inputs.size() > 1 || is_half(input->dtype())));
  }
  return converting ? KernelCost::Access::converting : KernelCost::Access::vectorized;
}

Tensor kernel(std::initializer_list<const Tensor*> inputs, Dtype dtype) {
  Tensor out = elementwise_result(inputs, dtype);
  Runtime::current().launch({.kind = KernelCost::Kind::elementwise,
                             .dtype = dtype,
                             .flops = out.numel(),
                             .bytes = traffic(inputs, out),
                             .access = access_of(inputs, out),
                             .elements = out.numel()});
  return out;
}

struct AddBackward final : Node {
  AddBackward(bool subtract) : negate_other{subtract} {}
  [[nodiscard]] const char* name() const override {
    return negate_other ? "SubBackward0" : "AddBackward0";
  }
  TensorList apply(TensorList& grads) override {
    TensorList out(2);
    if (wants(1)) {
      out[1] = negate_other ? kernel({&grads[0]}, grads[0].dtype()) : grads[0];
    }
    if (wants(0)) {
      out[0] = grads[0];
    }
    return out;
  }
  bool negate_other;
};
struct MulBackward final : Node {
  [[nodiscard]] const char* name() const override { return "MulBackward0"; }
  TensorList apply(TensorList& grads) override {
    TensorList out(2);
    const Tensor saved_other = other.unpack();
    const Tensor saved_self = self.unpack();
    if (wants(1)) {
      out[1] = kernel({&grads[0], &saved_self}, result_type(grads[0], saved_self));
    }
    if (wants(0)) {
      out[0] = kernel({&grads[0], &saved_other}, result_type(grads[0], saved_other));
    }
    return out;
  }
  void release_variables() override {
    other.release();
    self.release();
  }
  SavedTensor other{};
  SavedTensor self{};
};
struct DivBackward final : Node {
  [[nodiscard]] const char* name() const override { return "DivBackward0"; }
  TensorList apply(TensorList& grads) override {
    TensorList out(2);
    const Tensor saved_other = other.unpack();
    const Tensor saved_self = self.unpack();
    if (wants(1)) {  // -grad * ((self / other) / other)
      const Tensor quotient =
          kernel({&saved_self, &saved_other}, result_type(saved_self, saved_other));
      const Tensor twice = kernel({&quotient, &saved_other}, result_type(quotient, saved_other));
      const Tensor negative = kernel({&grads[0]}, grads[0].dtype());
      out[1] = kernel({&negative, &twice}, result_type(negative, twice));
    }
    if (wants(0)) {
      out[0] = kernel({&grads[0], &saved_other}, result_type(grads[0], saved_other));
    }
    return out;
  }
  void release_variables() override {
    other.release();
    self.release();
  }
  SavedTensor other{};
  SavedTensor self{};
};
/// One gradient tensor from the gradient and (perhaps) one saved tensor.
struct UnaryBackward final : Node {
  explicit UnaryBackward(const char* node_name) : label{node_name} {}
  [[nodiscard]] const char* name() const override { return label; }
  TensorList apply(TensorList& grads) override {
    const Tensor tensor = saved.unpack();
    const Tensor& other = tensor.defined() ? tensor : grads[0];
    return {kernel({&grads[0], &other}, grads[0].dtype())};
  }
  void release_variables() override { saved.release(); }
  const char* label;
  SavedTensor saved{};
};
struct PowBackward final : Node {
  [[nodiscard]] const char* name() const override { return "PowBackward0"; }
  TensorList apply(TensorList& grads) override {  // grad * (exponent * self.pow(exponent - 1))
    const Tensor saved = self.unpack();
    Tensor power = kernel({&saved}, saved.dtype());
    Tensor scaled = kernel({&power}, saved.dtype());
    Tensor out = kernel({&grads[0], &scaled}, result_type(grads[0], scaled));
    scaled.reset();
    power.reset();
    return {out};
  }
  void release_variables() override { self.release(); }
  SavedTensor self{};
};
struct RsqrtBackward final : Node {
  [[nodiscard]] const char* name() const override { return "RsqrtBackward0"; }
  TensorList apply(TensorList& grads) override {  // -0.5 * grad * result.pow(3)
    const Tensor saved = result.unpack();
    Tensor cube = kernel({&saved}, saved.dtype());
    Tensor scaled = kernel({&grads[0]}, grads[0].dtype());
    Tensor out = kernel({&scaled, &cube}, result_type(scaled, cube));
    scaled.reset();
    cube.reset();
    return {out};
  }
  void release_variables() override { result.release(); }
  SavedTensor result{};
};
struct CloneBackward final : Node {
  [[nodiscard]] const char* name() const override { return "CloneBackward0"; }
  TensorList apply(TensorList& grads) override { return {grads[0]}; }
};

/// where(condition, grad, 0): the number becomes a one-element tensor for the call.
struct WhereBackward final : Node {
  [[nodiscard]] const char* name() const override { return "WhereBackward0"; }
  TensorList apply(TensorList& grads) override {
    const Tensor saved = condition.unpack();
    return {grads[0].defined() ? where(saved, grads[0], 0.0) : Tensor{}};
  }
  void release_variables() override { condition.release(); }
  SavedTensor condition{};
};

/// clamp_backward: where(self >= min and self <= max, grad, 0).
struct ClampBackward final : Node {
  [[nodiscard]] const char* name() const override { return "ClampBackward1"; }
  TensorList apply(TensorList& grads) override {
    const Tensor most = max.unpack();
    const Tensor least = min.unpack();
    const Tensor saved = self.unpack();
    const Tensor zero = empty({}, grads[0].dtype());
    const Tensor inside = pointwise("ge", {&saved, &least}, Dtype::boolean);
    const Tensor below = pointwise("le", {&saved, &most}, Dtype::boolean);
    in_place("logical_and_", inside, {&below});
    return {pointwise("where", {&inside, &grads[0], &zero}, grads[0].dtype())};
  }
  void release_variables() override {
    max.release();
    min.release();
    self.release();
  }
  SavedTensor max{};
  SavedTensor min{};
  SavedTensor self{};
};

/// clamp_backward with numbers: the same, but one comparison per bound.
struct ClampNumberBackward final : Node {
  explicit ClampNumberBackward(Bounds which) : bounds{which} {}
  [[nodiscard]] const char* name() const override { return "ClampBackward0"; }
  TensorList apply(TensorList& grads) override {
    const Tensor saved = self.unpack();
    const Tensor zero = empty({}, grads[0].dtype());
    const Tensor inside = pointwise("le", {&saved}, Dtype::boolean);
    Tensor other;
    if (bounds == Bounds::both) {
      other = pointwise("ge", {&saved}, Dtype::boolean);
      in_place("logical_and_", inside, {&other});
    }
    return {pointwise("where", {&inside, &grads[0], &zero}, grads[0].dtype())};
  }
  void release_variables() override { self.release(); }
  Bounds bounds;
  SavedTensor self{};
};

/// A copy into a piece of a tensor. Source: PyTorch, torch/csrc/autograd/functions/tensor.cpp,
/// CopySlices: the whole gradient is copied, the piece cut out of it and set to zero.
struct CopySlicesBackward final : Node {
  CopySlicesBackward(std::int64_t d, std::int64_t at, const Tensor& source)
      : dim{d}, from{at}, length{source.size(d)}, source_dtype{source.dtype()} {}
  [[nodiscard]] const char* name() const override { return "CopySlices"; }
  TensorList apply(TensorList& grads) override {
    TensorList out(2);
    Tensor result = empty_like(grads[0]);
    Tensor piece = clone(result.slice(dim, from, from + length));
    const Tensor zeros = wants(0) ? empty_like(piece) : Tensor{};
    if (wants(1)) {
      out[1] = piece.to(source_dtype);
    }
    piece.reset();
    if (wants(0)) {
      in_place("copy_", result);
      out[0] = std::move(result);
    }
    return out;
  }
  std::int64_t dim;
  std::int64_t from;
  std::int64_t length;
  Dtype source_dtype;
};

enum class Saves : std::uint8_t { nothing, input, output };

Tensor unary(const char* op, const char* backward_name, const Tensor& self, Saves saves) {
  const OpScope scope{op, {&self}};
  const auto node = make_node<UnaryBackward>({&self}, backward_name);
  if (node && saves == Saves::input) {
    node->saved.save(self);
  }
  Tensor out = with_history(kernel({&self}, self.dtype()), node);
  if (node && saves == Saves::output) {
    node->saved.save_output(out);
  }
  return out;
}

}  // namespace

Tensor empty(const Shape& sizes, Dtype dtype, Category category) {
  return made(sizes, contiguous_strides(sizes), dtype, Device::cuda, category);
}

Tensor empty_strided(const Shape& sizes, const Shape& strides, Dtype dtype) {
  return made(sizes, strides, dtype, Device::cuda, Category::temporary);
}

Tensor empty_like(const Tensor& like) { return empty_like(like, like.dtype()); }

Tensor empty_like(const Tensor& like, Dtype dtype) {
  if (like.is_non_overlapping_and_dense()) {
    return empty_strided(like.sizes(), like.strides(), dtype);
  }
  return elementwise_result({&like}, dtype);
}

Tensor host_tensor(const Shape& sizes, Dtype dtype) {
  return made(sizes, contiguous_strides(sizes), dtype, Device::cpu, Category::unknown);
}

Tensor to_device(const Tensor& host, Category category) {
  const OpScope scope{"_to_copy"};
  Tensor out = made(host.sizes(), host.strides(), host.dtype(), Device::cuda, category);
  Runtime& runtime = Runtime::current();
  runtime.launch({KernelCost::Kind::to_device, host.dtype(), 0, out.nbytes().count()});
  runtime.synchronize_stream();  // the host's memory is not pinned
  return out;
}

Tensor arange(std::int64_t count, Dtype dtype) {
  const OpScope scope{"arange"};
  return empty({count}, dtype);
}

Tensor clone(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"clone", {&self}};
  const auto node = make_node<CloneBackward>({&self});
  Tensor out = empty_like(self);
  Runtime::current().launch({.kind = KernelCost::Kind::copy,
                             .dtype = self.dtype(),
                             .bytes = 2 * out.nbytes().count(),
                             .access = access_of({&self}, out),
                             .elements = out.numel()});
  return with_history(std::move(out), node);
}

Tensor number(double /*value*/) {
  Ref<TensorImpl> impl = make_ref<TensorImpl>();
  impl->dtype = Dtype::float32;
  impl->wrapped_number = true;
  impl->storage = make_ref<Storage>(Bytes{}, Device::cpu, Category::unknown);
  return Tensor{std::move(impl)};
}

Tensor integer(std::int64_t /*value*/) {
  Tensor operand = number(0.0);
  operand->dtype = Dtype::int64;
  return operand;
}

Dtype result_type(const Tensor& a, const Tensor& b) {
  const auto rank = [](const Tensor& tensor) {
    return tensor->wrapped_number ? 0 : (tensor.dim() == 0 ? 1 : 2);
  };
  if (rank(a) == rank(b)) {
    return promote(a.dtype(), b.dtype());
  }
  const Dtype higher = rank(a) > rank(b) ? a.dtype() : b.dtype();
  const Dtype lower = rank(a) > rank(b) ? b.dtype() : a.dtype();
  if (is_floating(higher) || (!is_floating(lower) && higher != Dtype::boolean)) {
    return higher;
  }
  return promote(higher, lower);
}

Tensor elementwise_result(std::initializer_list<const Tensor*> inputs, Dtype dtype) {
  Shape sizes;
  for (const Tensor* input : inputs) {
    sizes = broadcast(sizes, input->sizes());
  }
  std::vector<Shape> strides;
  bool same_contiguous = true;
  for (const Tensor* input : inputs) {
    if (input->dim() == 0 && !sizes.empty()) {
      continue;
    }
    same_contiguous = same_contiguous && input->sizes() == sizes && input->is_contiguous();
    Shape operand = sizes;
    const std::size_t offset = sizes.size() - input->sizes().size();
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      operand[i] = i < offset || (input->sizes()[i - offset] == 1 && sizes[i] != 1)
                       ? 0
                       : input->strides()[i - offset];
    }
    strides.push_back(operand);
  }
  if (same_contiguous) {
    return empty(sizes, dtype);
  }
  const std::vector<std::size_t> order = iteration_order(sizes, strides);
  Shape result = sizes;
  std::int64_t stride = 1;
  for (const std::size_t d : order) {
    result[d] = stride;
    stride *= sizes[d];
  }
  return empty_strided(sizes, result, dtype);
}

void in_place(const char* name, const Tensor& self, std::initializer_list<const Tensor*> others) {
  const OpScope scope{name};
  Runtime::current().launch({.kind = KernelCost::Kind::elementwise,
                             .dtype = self.dtype(),
                             .flops = self.numel(),
                             .bytes = traffic(others, self) + self.nbytes().count(),
                             .access = access_of(others, self),
                             .elements = self.numel(),
                             .from_native = true});
}

Tensor pointwise(const char* name, std::initializer_list<const Tensor*> inputs, Dtype out) {
  const OpScope scope{name, inputs};
  return kernel(inputs, out);
}

Tensor add(Tensor self_argument, Tensor other_argument) {
  const Tensor other = std::move(other_argument);
  const Tensor self = std::move(self_argument);
  const OpScope scope{"add", {&self, &other}};
  const auto node = make_node<AddBackward>({&self, &other}, false);
  return with_history(kernel({&self, &other}, result_type(self, other)), node);
}

Tensor sub(Tensor self_argument, Tensor other_argument) {
  const Tensor other = std::move(other_argument);
  const Tensor self = std::move(self_argument);
  const OpScope scope{"sub", {&self, &other}};
  const auto node = make_node<AddBackward>({&self, &other}, true);
  return with_history(kernel({&self, &other}, result_type(self, other)), node);
}

Tensor mul(Tensor self_argument, Tensor other_argument) {
  const Tensor other = std::move(other_argument);
  const Tensor self = std::move(self_argument);
  const OpScope scope{"mul", {&self, &other}};
  const auto node = make_node<MulBackward>({&self, &other});
  if (node && node->wants(0)) {
    node->other.save(other);
  }
  if (node && node->wants(1)) {
    node->self.save(self);
  }
  return with_history(kernel({&self, &other}, result_type(self, other)), node);
}

Tensor div(Tensor self_argument, Tensor other_argument) {
  const Tensor other = std::move(other_argument);
  const Tensor self = std::move(self_argument);
  const OpScope scope{"div", {&self, &other}};
  const auto node = make_node<DivBackward>({&self, &other});
  if (node) {
    node->other.save(other);
    if (node->wants(1)) {
      node->self.save(self);
    }
  }
  const Dtype dtype = result_type(self, other);
  return with_history(kernel({&self, &other}, is_floating(dtype) ? dtype : Dtype::float32), node);
}

void add_in_place(Tensor& self, Tensor other_argument) {
  const Tensor other = std::move(other_argument);
  const OpScope scope{"add_", {&self, &other}};
  const auto node = make_node<AddBackward>({&self, &other}, false);
  Runtime::current().launch({KernelCost::Kind::elementwise, self.dtype(), self.numel(),
                             traffic({&other}, self) + self.nbytes().count()});
  self = with_history(self, node);
}

Tensor where(Tensor condition_argument, Tensor self_argument, double /*other*/) {
  const Tensor self = std::move(self_argument);
  const Tensor condition = std::move(condition_argument);
  const OpScope scope{"where", {&condition, &self}};
  const Tensor other = empty({}, self.dtype());
  const auto node = make_node<WhereBackward>({&self});
  if (node) {
    node->condition.save(condition);
  }
  return with_history(kernel({&condition, &self, &other}, self.dtype()), node);
}

Tensor neg(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  return unary("neg", "NegBackward0", self, Saves::nothing);
}

Tensor pow(Tensor self_argument, double /*exponent*/) {
  Tensor self = std::move(self_argument);
  if (Runtime::current().autocast.enabled) {
    self = autocast_fp32(self);
  }
  const OpScope scope{"pow", {&self}};
  const auto node = make_node<PowBackward>({&self});
  if (node) {
    node->self.save(self);
  }
  return with_history(kernel({&self}, self.dtype()), node);
}

Tensor rsqrt(Tensor self_argument) {
  Tensor self = std::move(self_argument);
  if (Runtime::current().autocast.enabled) {
    self = autocast_fp32(self);
  }
  const OpScope scope{"rsqrt", {&self}};
  const auto node = make_node<RsqrtBackward>({&self});
  Tensor out = with_history(kernel({&self}, self.dtype()), node);
  if (node) {
    node->result.save_output(out);
  }
  return out;
}

Tensor tanh(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  return unary("tanh", "TanhBackward0", self, Saves::output);
}
Tensor sigmoid(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  return unary("sigmoid", "SigmoidBackward0", self, Saves::output);
}
Tensor relu(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  return unary("relu", "ReluBackward0", self, Saves::output);
}
Tensor clamp(Tensor self_argument, Tensor min_argument, Tensor max_argument) {
  const Tensor max = std::move(max_argument);
  const Tensor min = std::move(min_argument);
  const Tensor self = std::move(self_argument);
  const OpScope scope{"clamp", {&self, &min, &max}};
  const auto node = make_node<ClampBackward>({&self});
  if (node) {
    node->max.save(max);
    node->min.save(min);
    node->self.save(self);
  }
  return with_history(kernel({&self, &min, &max}, self.dtype()), node);
}
Tensor clamp(Tensor self_argument, Bounds bounds) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"clamp", {&self}};
  const auto node = make_node<ClampNumberBackward>({&self}, bounds);
  if (node) {
    node->self.save(self);
  }
  return with_history(kernel({&self}, self.dtype()), node);
}
void copy_into_slice(Tensor& self, std::int64_t d, std::int64_t from, Tensor source_argument) {
  const Tensor source = std::move(source_argument);
  const OpScope scope{"copy_", {&source}};
  const auto node = make_node<CopySlicesBackward>({&self, &source}, d, from, source);
  Runtime::current().launch({KernelCost::Kind::copy, self.dtype(), 0, 2 * source.nbytes().count()});
  self = with_history(self, node);
}
Tensor gelu(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  return unary("gelu", "GeluBackward0", self, Saves::input);
}
Tensor silu(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  return unary("silu", "SiluBackward0", self, Saves::input);
}

}  // namespace peakcast::torch
