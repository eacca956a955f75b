#include <algorithm>

#include "sim/engine/cost_model.hpp"
#include "workloads/torch/ops.hpp"

namespace peakcast::torch {
namespace {

/// cuBLAS takes row- or column-major matrices; anything else is copied first, for the call.
Tensor prepared(const Tensor& matrix) {
  const std::size_t n = matrix.sizes().size();
  const std::int64_t rows = matrix.sizes()[n - 2];
  const std::int64_t columns = matrix.sizes()[n - 1];
  const std::int64_t s0 = matrix.strides()[n - 2];
  const std::int64_t s1 = matrix.strides()[n - 1];
  const bool column_major = s0 == 1 && s1 >= std::max<std::int64_t>(1, rows);
  const bool row_major = s1 == 1 && s0 >= std::max<std::int64_t>(1, columns);
  return column_major || row_major ? matrix : matrix.contiguous();
}

/// Alignment of a matrix's rows in bytes, 16 at the most: of the stride that is not 1.
std::int64_t row_alignment(const Tensor& matrix) {
  const std::int64_t rows = matrix.strides()[matrix.strides().size() - 2];
  const std::int64_t row = std::max(rows, matrix.strides().back()) * element_size(matrix.dtype());
  return std::min<std::int64_t>(16, row & -row);
}

Tensor gemm(const Tensor& a, const Tensor& b, bool lt) {
  const bool batched = a.dim() == 3;
  Shape sizes;
  if (batched) {
    sizes.push_back(a.size(0));
  }
  sizes.push_back(a.size(-2));
  sizes.push_back(b.size(-1));
  check(a.size(-1) == b.size(-2), "matrix products need matching inner sizes");
  Tensor out = empty(sizes, a.dtype());
  const GradMode no_grad{false};
  const Tensor left = prepared(a);
  const Tensor right = prepared(b);
  Runtime& runtime = Runtime::current();
  runtime.libraries.use_cublas(false);
  if (lt) {
    runtime.libraries.use_cublas(true);
  }
  KernelCost cost{.kind = KernelCost::Kind::matmul,
                  .dtype = a.dtype(),
                  .flops = 2 * out.numel() * a.size(-1),
                  .bytes = a.nbytes().count() + b.nbytes().count() + out.nbytes().count()};
  cost.matmul = {
      .m = a.size(-2),
      .n = b.size(-1),
      .k = a.size(-1),
      .batch = batched ? a.size(0) : 1,
      .unit = math_unit(a.dtype()),
      .element_bytes = element_size(a.dtype()),
      .row_alignment = std::min({row_alignment(left), row_alignment(right), row_alignment(out)}),
      .inner_strided = left.strides().back() != 1 && right.strides().back() == 1};
  runtime.launch(cost);
  return out;
}

/// What a product's backward needs to know of an operand whose tensor may not have been saved.
struct Layout {
  explicit Layout(const Tensor& matrix) : sizes{matrix.sizes()}, strides{matrix.strides()} {}
  [[nodiscard]] bool column_major() const { return strides[0] == 1 && strides[1] == sizes[0]; }
  Shape sizes;
  Shape strides;
};

Tensor mat1_grad(const Tensor& grad, const Tensor& mat2, const Layout& mat1) {
  return mat1.column_major() ? mm(mat2, grad.t()).t() : mm(grad, mat2.t());
}
Tensor mat2_grad(const Tensor& grad, const Tensor& mat1, const Layout& mat2) {
  return mat2.column_major() ? mm(grad.t(), mat1).t() : mm(mat1.t(), grad);
}

struct MmBackward final : Node {
  MmBackward(const Tensor& a, const Tensor& b) : self_layout{a}, mat2_layout{b} {}
  [[nodiscard]] const char* name() const override { return "MmBackward0"; }
  TensorList apply(TensorList& grads) override {
    TensorList out(2);
    const Tensor saved_mat2 = mat2.unpack();
    const Tensor saved_self = self.unpack();
    if (wants(1)) {
      out[1] = mat2_grad(grads[0], saved_self, mat2_layout);
    }
    if (wants(0)) {
      out[0] = mat1_grad(grads[0], saved_mat2, self_layout);
    }
    return out;
  }
  void release_variables() override {
    mat2.release();
    self.release();
  }
  SavedTensor mat2{};
  SavedTensor self{};
  Layout self_layout;
  Layout mat2_layout;
};
struct BmmBackward final : Node {
  [[nodiscard]] const char* name() const override { return "BmmBackward0"; }
  TensorList apply(TensorList& grads) override {
    TensorList out(2);
    const Tensor saved_mat2 = mat2.unpack();
    const Tensor saved_self = self.unpack();
    if (wants(1)) {
      out[1] = bmm(saved_self.transpose(1, 2), grads[0]);
    }
    if (wants(0)) {
      out[0] = bmm(grads[0], saved_mat2.transpose(1, 2));
    }
    return out;
  }
  void release_variables() override {
    mat2.release();
    self.release();
  }
  SavedTensor mat2{};
  SavedTensor self{};
};
struct AddmmBackward final : Node {
  AddmmBackward(const Tensor& a, const Tensor& b) : mat1_layout{a}, mat2_layout{b} {}
  [[nodiscard]] const char* name() const override { return "AddmmBackward0"; }
  TensorList apply(TensorList& grads) override {
    TensorList out(3);
    const Tensor saved_mat1 = mat1.unpack();
    const Tensor saved_mat2 = mat2.unpack();
    if (wants(1)) {
      out[1] = mat1_grad(grads[0], saved_mat2, mat1_layout);
    }
    if (wants(2)) {
      out[2] = mat2_grad(grads[0], saved_mat1, mat2_layout);
    }
    if (wants(0)) {
      out[0] = grads[0];
    }
    return out;
  }
  void release_variables() override {
    mat1.release();
    mat2.release();
  }
  SavedTensor mat1{};
  SavedTensor mat2{};
  Layout mat1_layout;
  Layout mat2_layout;
};
struct UnsafeViewBackward final : Node {
  explicit UnsafeViewBackward(Shape sizes) : self_sizes{sizes} {}
  [[nodiscard]] const char* name() const override { return "UnsafeViewBackward0"; }
  TensorList apply(TensorList& grads) override { return {grads[0].reshape(self_sizes)}; }
  Shape self_sizes;
};

/// A reshape of a fresh result that autograd does not treat as a view.
Tensor unsafe_view(const Tensor& self, const Shape& sizes) {
  Ref<TensorImpl> impl = make_ref<TensorImpl>();
  impl->storage = self.storage();
  impl->sizes = sizes;
  impl->strides = contiguous_strides(sizes);
  impl->dtype = self.dtype();
  const auto node = make_node<UnsafeViewBackward>({&self}, self.sizes());
  return with_history(Tensor{std::move(impl)}, node);
}

/// LinearFunctionForZeroStage3: a product, to which the bias is added in place.
/// Source: DeepSpeed 0.19.8, deepspeed/runtime/zero/linear.py.
struct ZeroLinearBackward final : Node {
  [[nodiscard]] const char* name() const override { return "LinearFunctionForZeroStage3Backward"; }
  TensorList apply(TensorList& grads) override {
    const AutocastScope scope{autocast, autocast_dtype};
    TensorList out(3);
    Locals locals;
    Tensor& saved_input = locals.add(input.unpack());
    Tensor& saved_weight = locals.add(weight.unpack());
    static_cast<void>(locals.add(bias.unpack()));
    const Tensor grad = grads[0];
    if (wants(0)) {
      out[0] = matmul(grad, saved_weight);
    }
    if (wants(1)) {
      const Tensor rows = grad.reshape({-1, grad.size(-1)});
      out[1] = matmul(rows.t(), saved_input.reshape({-1, saved_input.size(-1)}));
    }
    if (wants(2)) {
      Shape dims;
      for (std::int64_t d = 0; d + 1 < grad.dim(); ++d) {
        dims.push_back(d);
      }
      const bool wide = autocast && is_half(grad.dtype());
      out[2] = sum(grad, dims, false, wide ? Dtype::float32 : grad.dtype());
    }
    return out;
  }
  void release_variables() override {
    input.release();
    weight.release();
    bias.release();
  }
  SavedTensor input{};
  SavedTensor weight{};
  SavedTensor bias{};
  bool autocast{Runtime::current().autocast.enabled};
  Dtype autocast_dtype{Runtime::current().autocast.dtype};
};

Tensor zero_linear(const Tensor& input, const Tensor& weight, const Tensor& bias) {
  const auto node = make_node<ZeroLinearBackward>({&input, &weight, &bias});
  Tensor out;
  {
    const GradMode no_grad{false};
    if (input.dim() == 2 && bias.defined()) {
      out = addmm(bias, input, weight.t());
    } else {
      out = matmul(input, weight.t());
      if (bias.defined()) {
        in_place("add_", out, {&bias});
      }
    }
  }
  if (node) {
    node->input.save(input);
    node->weight.save(weight);
    node->bias.save(bias);
  }
  return with_history(std::move(out), node);
}

/// autocast's list of lower precision: casts its arguments, the last first (they are arguments of
/// one call, which the compiler of the wheels evaluates backwards).
bool autocasting() { return Runtime::current().autocast.enabled; }

}  // namespace

Tensor mm(Tensor self_argument, Tensor mat2_argument) {
  Tensor mat2 = std::move(mat2_argument);
  Tensor self = std::move(self_argument);
  if (autocasting()) {
    mat2 = autocast_lower(mat2);
    self = autocast_lower(self);
  }
  const OpScope scope{"mm", {&self, &mat2}};
  const auto node = make_node<MmBackward>({&self, &mat2}, self, mat2);
  if (node && node->wants(0)) {
    node->mat2.save(mat2);
  }
  if (node && node->wants(1)) {
    node->self.save(self);
  }
  return with_history(gemm(self, mat2, false), node);
}

Tensor bmm(Tensor self_argument, Tensor mat2_argument) {
  Tensor mat2 = std::move(mat2_argument);
  Tensor self = std::move(self_argument);
  if (autocasting()) {
    mat2 = autocast_lower(mat2);
    self = autocast_lower(self);
  }
  const OpScope scope{"bmm", {&self, &mat2}};
  const auto node = make_node<BmmBackward>({&self, &mat2});
  if (node && node->wants(0)) {
    node->mat2.save(mat2);
  }
  if (node && node->wants(1)) {
    node->self.save(self);
  }
  return with_history(gemm(self, mat2, false), node);
}

Tensor addmm(Tensor bias_argument, Tensor mat1_argument, Tensor mat2_argument) {
  Tensor mat2 = std::move(mat2_argument);
  Tensor mat1 = std::move(mat1_argument);
  Tensor bias = std::move(bias_argument);
  if (autocasting()) {
    mat2 = autocast_lower(mat2);
    mat1 = autocast_lower(mat1);
    bias = autocast_lower(bias);
  }
  const OpScope scope{"addmm", {&bias, &mat1, &mat2}};
  const auto node = make_node<AddmmBackward>({&bias, &mat1, &mat2}, mat1, mat2);
  if (node && node->wants(2)) {
    node->mat1.save(mat1);
  }
  if (node && node->wants(1)) {
    node->mat2.save(mat2);
  }
  // The epilogue of cuBLASLt adds the bias; a product with a side of one goes through plain cuBLAS.
  const bool lt = bias.dim() == 1 && bias.is_contiguous() && mat2.size(0) > 1 && mat2.size(1) > 1;
  return with_history(gemm(mat1, mat2, lt), node);
}

Tensor matmul(Tensor a_argument, Tensor b_argument) {
  Tensor b = std::move(b_argument);
  Tensor a = std::move(a_argument);
  if (autocasting()) {
    b = autocast_lower(b);
    a = autocast_lower(a);
  }
  if (a.dim() == 2 && b.dim() == 2) {
    return mm(a, b);
  }
  if (a.dim() >= 3 && b.dim() == 2) {  // fold the batch into the rows
    Shape sizes = a.sizes();
    sizes[sizes.size() - 1] = b.size(1);
    return unsafe_view(mm(a.reshape({-1, a.size(-1)}), b), sizes);
  }
  check(a.dim() >= 3 && b.dim() >= 3, "this product is not described");
  Shape batch_a;
  Shape batch_b;
  for (std::size_t i = 0; i + 2 < a.sizes().size(); ++i) {
    batch_a.push_back(a.sizes()[i]);
  }
  for (std::size_t i = 0; i + 2 < b.sizes().size(); ++i) {
    batch_b.push_back(b.sizes()[i]);
  }
  const Shape batch = broadcast(batch_a, batch_b);
  Shape sizes_a = batch;
  sizes_a.push_back(a.size(-2));
  sizes_a.push_back(a.size(-1));
  Shape sizes_b = batch;
  sizes_b.push_back(b.size(-2));
  sizes_b.push_back(b.size(-1));
  Shape sizes = batch;
  sizes.push_back(a.size(-2));
  sizes.push_back(b.size(-1));
  const Tensor folded_a = a.expand(sizes_a).reshape({batch.numel(), a.size(-2), a.size(-1)});
  const Tensor folded_b = b.expand(sizes_b).reshape({batch.numel(), b.size(-2), b.size(-1)});
  return unsafe_view(bmm(folded_a, folded_b), sizes);
}

Tensor linear(Tensor input_argument, Tensor weight_argument, Tensor bias_argument) {
  Tensor bias = std::move(bias_argument);
  Tensor weight = std::move(weight_argument);
  Tensor input = std::move(input_argument);
  const OpScope scope{"linear"};
  if (Runtime::current().memory_efficient_linear) {
    return zero_linear(input, weight, bias);
  }
  if (autocasting()) {
    bias = autocast_lower(bias);
    weight = autocast_lower(weight);
    input = autocast_lower(input);
  }
  const Setting<bool> inner{Runtime::current().autocast.enabled, false};
  if (!bias.defined()) {
    return matmul(input, weight.t());
  }
  if (input.dim() == 2) {
    return addmm(bias, input, weight.t());
  }
  if (input.is_contiguous()) {
    Shape sizes = input.sizes();
    sizes[sizes.size() - 1] = weight.size(0);
    Tensor flat = input.reshape({-1, input.size(-1)});  // before the weight's node: a later number
    return addmm(bias, std::move(flat), weight.t()).view(sizes);
  }
  Tensor out = matmul(input, weight.t());
  return add(out, bias);
}

}  // namespace peakcast::torch
