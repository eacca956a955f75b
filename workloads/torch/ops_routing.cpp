#include <bit>
#include <cstdint>
#include <utility>

#include "workloads/torch/kernels.hpp"
#include "workloads/torch/ops.hpp"

/// Operators that mixtures of experts route with: selection, sorting, gathering, grouped products.
namespace peakcast::torch {
namespace {

void launch_copy(const Tensor& out) {
  Runtime::current().launch({KernelCost::Kind::copy, out.dtype(), 0, 2 * out.nbytes().count()});
}

/// index_put_(accumulate=True) into `rows` rows: the indices are made linear, sorted by as many
/// bits as the largest of them has, and walked. Source: PyTorch,
/// aten/src/ATen/native/cuda/Indexing.cu (index_put_with_sort_kernel).
/// `columns`: the second of a pair of indices, or undefined.
void index_put_accumulate(const Tensor& indices, std::int64_t rows, const Tensor& columns = {}) {
  const OpScope scope{"_index_put_impl_"};
  const std::int64_t count = indices.numel();
  Tensor wrapped = empty_like(indices);
  Tensor linear = empty_like(indices);
  wrapped.reset();
  if (columns.defined()) {
    wrapped = empty_like(columns);
    const Tensor strided = empty_like(columns);
    wrapped.reset();
  }
  Tensor sorted = empty_like(indices);
  Tensor original = empty_like(indices);
  {
    Tensor range = arange(count, indices.dtype());
    const std::int64_t width = element_size(indices.dtype());
    const auto bits = static_cast<std::int64_t>(std::bit_width(static_cast<std::uint64_t>(rows)));
    empty({radix_sort_scratch(count, width, width, bits).count()}, Dtype::uint8).reset();
  }
  original.reset();
  sorted.reset();
  linear.reset();
}

/// index_put that autograd did not vouch for: `_assert_async` on the largest and the smallest.
void assert_in_range(const Tensor& indices) {
  for (const bool largest : {true, false}) {
    const Tensor extreme = largest ? amax(indices) : amin(indices);
    const Tensor within = pointwise(largest ? "lt" : "ge", {&extreme}, Dtype::boolean);
  }
}

struct IndexBackward final : Node {
  explicit IndexBackward(Shape sizes) : self_sizes{sizes} {}
  [[nodiscard]] const char* name() const override { return "IndexBackward0"; }
  TensorList apply(TensorList& grads) override {
    const Tensor saved = indices.unpack();
    const Tensor saved_columns = columns.unpack();
    Tensor out = empty(self_sizes, grads[0].dtype());
    const Tensor values = grads[0].contiguous();
    if (Runtime::current().dispatch_mode) {  // index_put, not _index_put_impl_
      const Tensor zeros = std::move(out);
      out = clone(zeros);
      assert_in_range(saved);
      index_put_accumulate(saved, self_sizes[0]);
      launch_copy(values);
      return {out};
    }
    index_put_accumulate(saved, self_sizes[0], saved_columns);
    launch_copy(values);
    return {out};
  }
  void release_variables() override {
    indices.release();
    columns.release();
  }
  SavedTensor indices{};
  SavedTensor columns{};  ///< of pairs
  Shape self_sizes;
};
struct MaskedFillBackward final : Node {
  [[nodiscard]] const char* name() const override { return "MaskedFillBackward0"; }
  TensorList apply(TensorList& grads) override {
    const Tensor saved = mask.unpack();
    return {masked_fill(grads[0], saved)};
  }
  void release_variables() override { mask.release(); }
  SavedTensor mask{};
};
/// Zeros of the input's size, scattered into.
struct TopkBackward final : Node {
  explicit TopkBackward(Shape sizes) : self_sizes{sizes} {}
  [[nodiscard]] const char* name() const override { return "TopkBackward0"; }
  TensorList apply(TensorList& grads) override {
    const Tensor saved = indices.unpack();
    Tensor out = empty(self_sizes, grads[0].dtype());
    if (Runtime::current().dispatch_mode) {  // scatter, not scatter_
      out = clone(out);
    }
    return {out};
  }
  void release_variables() override { indices.release(); }
  SavedTensor indices{};
  Shape self_sizes;
};
/// Zeros of the input's size, added into; gather keeps its input, of which it needs the size.
struct GatherBackward final : Node {
  [[nodiscard]] const char* name() const override { return "GatherBackward0"; }
  TensorList apply(TensorList& grads) override {
    const Tensor saved_indices = indices.unpack();
    const Tensor saved_self = self.unpack();
    return {empty(saved_self.sizes(), grads[0].dtype())};
  }
  void release_variables() override {
    indices.release();
    self.release();
  }
  SavedTensor indices{};
  SavedTensor self{};
};
struct DivInPlaceBackward final : Node {
  [[nodiscard]] const char* name() const override { return "DivBackward0"; }
  TensorList apply(TensorList& grads) override {
    TensorList out(2);
    const Tensor saved_other = other.unpack();
    const Tensor saved_self = self.unpack();
    if (wants(1)) {
      out[1] = division_gradient(grads[0], saved_self, saved_other);
    }
    if (wants(0)) {
      out[0] = pointwise("div", {&grads[0], &saved_other}, result_type(grads[0], saved_other));
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

/// The products of row groups with one matrix each, in one kernel. bfloat16 on compute capability
/// 9.0: argument arrays (three pointers, three strides and a problem shape per group) and CUTLASS's
/// tensor maps (four of 128 bytes per multiprocessor) for the length of the call.
/// Source: PyTorch, aten/src/ATen/native/cuda/GroupMM.cu; CUTLASS 3, sm90 grouped kernels.
Tensor grouped_kernel(const Shape& sizes, const Shape& strides, Dtype dtype, std::int64_t groups,
                      const Matmul& product) {
  const OpScope scope{"_grouped_mm"};
  Tensor out = empty_strided(sizes, strides, dtype);
  const GpuTraits& gpu = Runtime::current().gpu();
  if (gpu.compute_capability == 90 && dtype == Dtype::bfloat16) {
    Tensor arguments = empty({groups * (3 * 8 + 3 * 8 + 3 * 4)}, Dtype::uint8);
    Tensor workspace = empty({gpu.multiprocessors * 4 * 128}, Dtype::uint8);
    workspace.reset();
    arguments.reset();
  } else {
    Runtime::current().libraries.use_cublas(false);  // a loop of plain products into slices
  }
  KernelCost cost{.kind = KernelCost::Kind::matmul,
                  .dtype = dtype,
                  .flops = 2 * product.m * product.n * product.k * product.batch};
  cost.matmul = product;
  cost.matmul.unit = math_unit(dtype);
  cost.matmul.element_bytes = element_size(dtype);
  Runtime::current().launch(cost);
  return out;
}

struct GroupedMmBackward final : Node {
  GroupedMmBackward(Shape a, Shape b, Shape b_strides)
      : self_sizes{a}, mat2_sizes{b}, mat2_strides{b_strides} {}
  [[nodiscard]] const char* name() const override { return "GroupedMmBackward0"; }
  TensorList apply(TensorList& grads) override {
    TensorList out(2);
    const Tensor saved_mat2 = mat2.unpack();
    const Tensor saved_offsets = offsets.unpack();
    const Tensor saved_self = self.unpack();
    const Dtype dtype = grads[0].dtype();
    const std::int64_t rows = self_sizes[0];
    const std::int64_t in = mat2_sizes[1];
    const std::int64_t wide = mat2_sizes[2];
    if (wants(1)) {  // groups of even size; their products are as many matrices
      out[1] = grouped_kernel(mat2_sizes, mat2_strides, dtype, mat2_sizes[0],
                              {.m = in,
                               .n = wide,
                               .k = std::max<std::int64_t>(1, rows / mat2_sizes[0]),
                               .batch = mat2_sizes[0],
                               .inner_strided = true});
    }
    if (wants(0)) {
      out[0] = grouped_kernel(self_sizes, contiguous_strides(self_sizes), dtype, mat2_sizes[0],
                              {.m = rows, .n = in, .k = wide});
    }
    return out;
  }
  void release_variables() override {
    mat2.release();
    offsets.release();
    self.release();
  }
  SavedTensor mat2{};
  SavedTensor offsets{};
  SavedTensor self{};
  Shape self_sizes;
  Shape mat2_sizes;
  Shape mat2_strides;
};

}  // namespace

Tensor division_gradient(const Tensor& grad, const Tensor& self, const Tensor& other) {
  // -grad * ((self / other) / other); temporaries of one expression, the last made goes first
  const Dtype dtype = result_type(self, other);
  const Tensor quotient = pointwise("div", {&self, &other}, dtype);
  const Tensor twice = pointwise("div", {&quotient, &other}, dtype);
  const Tensor negative = pointwise("neg", {&grad}, grad.dtype());
  return pointwise("mul", {&negative, &twice}, result_type(negative, twice));
}

void div_in_place(Tensor& self, Tensor other_argument) {
  const Tensor other = std::move(other_argument);
  const OpScope scope{"div_", {&self, &other}};
  const auto node = make_node<DivInPlaceBackward>({&self, &other});
  if (node) {
    node->other.save(other);
    if (node->wants(1)) {
      const GradMode no_grad{false};
      node->self.save(clone(self));  // what it was before
    }
  }
  self = with_history(self, node);
}

Selected topk(Tensor self_argument, std::int64_t k) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"topk", {&self}};
  const auto node = make_node<TopkBackward>({&self}, self.sizes());
  Shape sizes = self.sizes();
  sizes[sizes.size() - 1] = k;
  Tensor values = with_history(empty(sizes, self.dtype()), node);
  Tensor indices = empty(sizes, Dtype::int64);
  launch_copy(self);
  if (node) {
    node->indices.save(indices);
  }
  return {values, indices};
}

Selected max(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"max", {&self}};
  const auto node = make_node<TopkBackward>({&self}, self.sizes());
  Shape sizes = self.sizes();
  sizes[sizes.size() - 1] = 1;
  Tensor values = with_history(empty(sizes, self.dtype()), node);
  Tensor indices = empty(sizes, Dtype::int64);
  launch_copy(self);
  if (node) {
    node->indices.save(indices);
  }
  return {values, indices};
}

Tensor argmax(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"argmax", {&self}};
  Shape sizes = self.sizes();
  sizes.erase(sizes.size() - 1);
  launch_copy(self);
  return empty(sizes, Dtype::int64);
}

Tensor gather(Tensor self_argument, Tensor indices_argument) {
  const Tensor indices = std::move(indices_argument);
  const Tensor self = std::move(self_argument);
  const OpScope scope{"gather", {&self, &indices}};
  const auto node = make_node<GatherBackward>({&self});
  if (node) {
    node->indices.save(indices);
    node->self.save(self);
  }
  Tensor out = empty(indices.sizes(), self.dtype());
  launch_copy(out);
  return with_history(std::move(out), node);
}

Tensor index_pairs(Tensor self_argument, Tensor rows_argument, Tensor columns_argument) {
  const Tensor columns = std::move(columns_argument);
  const Tensor rows = std::move(rows_argument);
  const Tensor self = std::move(self_argument);
  const OpScope scope{"index", {&self, &rows, &columns}};
  const auto node = make_node<IndexBackward>({&self}, self.sizes());
  if (node) {
    node->indices.save(rows);
    node->columns.save(columns);
  }
  Tensor out = empty({rows.numel(), self.size(2)}, self.dtype());
  launch_copy(out);
  return with_history(std::move(out), node);
}

Selected sort(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"sort", {&self}};
  constexpr std::int64_t kSmall = 4096;  // up to here one block sorts in place
  const std::int64_t count = self.numel();
  Tensor values = empty(self.sizes(), self.dtype());
  Tensor indices = empty(self.sizes(), Dtype::int64);
  Tensor range = arange(count);
  if (count > kSmall) {
    empty({radix_sort_scratch(count, element_size(self.dtype()), 8).count()}, Dtype::uint8).reset();
  }
  range.reset();
  launch_copy(values);
  return {values, indices};
}

Tensor index(Tensor self_argument, Tensor indices_argument) {
  const Tensor indices = std::move(indices_argument);
  const Tensor self = std::move(self_argument);
  const OpScope scope{"index", {&self, &indices}};
  const auto node = make_node<IndexBackward>({&self}, self.sizes());
  if (node) {
    node->indices.save(indices);
  }
  Shape sizes = self.sizes();
  sizes[0] = indices.numel();
  Tensor out = empty(sizes, self.dtype());
  launch_copy(out);
  return with_history(std::move(out), node);
}

Tensor cumsum(Tensor self_argument, Dtype dtype) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"cumsum", {&self}};
  Tensor out = empty(self.sizes(), dtype);
  empty({cumsum_scratch(self.numel(), element_size(dtype)).count()}, Dtype::uint8).reset();
  return out;
}

Tensor cumsum_rows(Tensor self_argument) {
  const Tensor self = std::move(self_argument);
  const OpScope scope{"cumsum", {&self}};
  Tensor out = empty(self.sizes(), Dtype::int64);
  const Tensor widened = self.to(Dtype::int64);
  if (self.numel() == self.size(-1)) {  // one row: cub's scan, with scratch
    empty({cumsum_scratch(self.numel(), 8).count()}, Dtype::uint8).reset();
  }
  return out;
}

Tensor masked_fill(Tensor self_argument, Tensor mask_argument) {
  const Tensor mask = std::move(mask_argument);
  const Tensor self = std::move(self_argument);
  const OpScope scope{"masked_fill", {&self, &mask}};
  const auto node = make_node<MaskedFillBackward>({&self});
  if (node) {
    node->mask.save(mask);
  }
  const GradMode no_grad{false};
  Tensor out = clone(self);
  in_place("masked_fill_", out, {&mask});
  return with_history(std::move(out), node);
}

void masked_fill_in_place(Tensor& self, Tensor mask_argument) {
  const Tensor mask = std::move(mask_argument);
  const OpScope scope{"masked_fill_", {&self, &mask}};
  const auto node = make_node<MaskedFillBackward>({&self});
  if (node) {
    node->mask.save(mask);
  }
  in_place("masked_fill_", self, {&mask});
  self = with_history(self, node);
}

Tensor grouped_mm(Tensor self_argument, Tensor mat2_argument, Tensor offsets_argument) {
  const Tensor offsets = std::move(offsets_argument);
  Tensor mat2 = std::move(mat2_argument);
  Tensor self = std::move(self_argument);
  const auto node =
      make_node<GroupedMmBackward>({&self, &mat2}, self.sizes(), mat2.sizes(), mat2.strides());
  if (node) {
    if (node->wants(0)) {
      node->mat2.save(mat2);
    }
    node->offsets.save(offsets);
    if (node->wants(1)) {
      node->self.save(self);
    }
  }
  const OpScope scope{"_grouped_mm", {&self, &mat2, &offsets}};
  const Shape sizes{self.size(0), mat2.size(2)};
  return with_history(grouped_kernel(sizes, contiguous_strides(sizes), self.dtype(), mat2.size(0),
                                     {.m = self.size(0), .n = mat2.size(2), .k = mat2.size(1)}),
                      node);
}

}  // namespace peakcast::torch
