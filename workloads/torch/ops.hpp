#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include "workloads/torch/autograd.hpp"
#include "workloads/torch/runtime.hpp"
#include "workloads/torch/tensor.hpp"

/// The operators. Each allocates its outputs and temporaries in PyTorch's order and leaves a node
/// that knows its backward.
///
/// Tensors come in by value. A name passed as an argument stays alive with the caller; a temporary
/// (or a moved name) ends when the operator returns, as an unnamed Python argument does. So
///     dropout(dense(x)) + residual
/// lives and dies as the same words do in Python.
namespace peakcast::torch {

// -- making tensors (no gradient) -----------------------------------------------------------------
[[nodiscard]] Tensor empty(const Shape& sizes, Dtype dtype,
                           Category category = Category::temporary);
[[nodiscard]] Tensor empty_strided(const Shape& sizes, const Shape& strides, Dtype dtype);
/// Of `like`'s sizes and (when it is dense) strides.
[[nodiscard]] Tensor empty_like(const Tensor& like);
[[nodiscard]] Tensor empty_like(const Tensor& like, Dtype dtype);
[[nodiscard]] Tensor host_tensor(const Shape& sizes, Dtype dtype);      ///< on the CPU: no event
[[nodiscard]] Tensor to_device(const Tensor& host, Category category);  ///< t.to("cuda")
[[nodiscard]] Tensor arange(std::int64_t count, Dtype dtype = Dtype::int64);
[[nodiscard]] Tensor clone(Tensor self);
[[nodiscard]] Tensor number(double value);         ///< a Python float as an operand: no bytes
[[nodiscard]] Tensor integer(std::int64_t value);  ///< a Python int as an operand: no bytes

// -- element by element ---------------------------------------------------------------------------
[[nodiscard]] Tensor add(Tensor self, Tensor other);
[[nodiscard]] Tensor sub(Tensor self, Tensor other);
[[nodiscard]] Tensor mul(Tensor self, Tensor other);
[[nodiscard]] Tensor div(Tensor self, Tensor other);
[[nodiscard]] Tensor neg(Tensor self);
[[nodiscard]] Tensor pow(Tensor self, double exponent);
[[nodiscard]] Tensor rsqrt(Tensor self);
[[nodiscard]] Tensor tanh(Tensor self);
[[nodiscard]] Tensor sigmoid(Tensor self);
[[nodiscard]] Tensor relu(Tensor self);
[[nodiscard]] Tensor where(Tensor condition, Tensor self, double other);  ///< a number elsewhere
[[nodiscard]] Tensor clamp(Tensor self, Tensor min, Tensor max);  ///< bounds without gradient
/// clamp by numbers.
enum class Bounds : std::uint8_t { above, both };
[[nodiscard]] Tensor clamp(Tensor self, Bounds bounds);
[[nodiscard]] Tensor gelu(Tensor self);  ///< exact or tanh: the same memory
[[nodiscard]] Tensor silu(Tensor self);
/// An operator without gradient whose result has the broadcast sizes of its operands (comparisons,
/// logic, where on masks, cos, sin ...).
[[nodiscard]] Tensor pointwise(const char* name, std::initializer_list<const Tensor*> inputs,
                               Dtype out);
inline Tensor operator+(Tensor a, Tensor b) { return add(std::move(a), std::move(b)); }
inline Tensor operator-(Tensor a, Tensor b) { return sub(std::move(a), std::move(b)); }
inline Tensor operator*(Tensor a, Tensor b) { return mul(std::move(a), std::move(b)); }
inline Tensor operator/(Tensor a, Tensor b) { return div(std::move(a), std::move(b)); }
inline Tensor operator+(Tensor a, double b) { return add(std::move(a), number(b)); }
inline Tensor operator*(Tensor a, double b) { return mul(std::move(a), number(b)); }
inline Tensor operator*(double a, Tensor b) { return mul(std::move(b), number(a)); }
inline Tensor operator/(Tensor a, double b) { return div(std::move(a), number(b)); }
inline Tensor operator-(Tensor a) { return neg(std::move(a)); }
/// self[..., from : from + n] = source along dimension `d`, with gradients (CopySlices).
void copy_into_slice(Tensor& self, std::int64_t d, std::int64_t from, Tensor source);
/// self.add_(other) with gradients: self's storage stays, its history grows.
void add_in_place(Tensor& self, Tensor other);
/// In place: nothing is allocated, the storage stays; no gradient is recorded (optimizers, masks).
void in_place(const char* name, const Tensor& self,
              std::initializer_list<const Tensor*> others = {});

// -- reductions -----------------------------------------------------------------------------------
/// sum over `dims` (all when empty). Tall reductions take scratch in global memory.
[[nodiscard]] Tensor sum(Tensor self, const Shape& dims, bool keepdim,
                         std::optional<Dtype> dtype = {});
[[nodiscard]] Tensor mean(Tensor self, const Shape& dims, bool keepdim);
[[nodiscard]] Tensor all(Tensor self);  ///< one bool
/// Tensor.item(), or a tensor's use as a condition: the host waits for the stream.
void item(const Tensor& self);
/// Of all elements, without gradient.
[[nodiscard]] Tensor any(Tensor self);  ///< one bool
[[nodiscard]] Tensor amax(Tensor self);
[[nodiscard]] Tensor amin(Tensor self);
[[nodiscard]] Tensor vector_norm(Tensor self);
/// at::sum_to_size: what the engine does to a broadcast operand's gradient.
[[nodiscard]] Tensor sum_to(Tensor self, const Shape& sizes);

// -- shapes ---------------------------------------------------------------------------------------
[[nodiscard]] Tensor cat(const TensorList& tensors, std::int64_t dim);
/// Views, one node for all.
[[nodiscard]] TensorList split(Tensor self, const Shape& sizes, std::int64_t dim);
[[nodiscard]] TensorList unbind(Tensor self, std::int64_t dim);
[[nodiscard]] TensorList chunk(Tensor self, std::int64_t chunks, std::int64_t dim);

// -- products -------------------------------------------------------------------------------------
[[nodiscard]] Tensor mm(Tensor self, Tensor mat2);
[[nodiscard]] Tensor bmm(Tensor self, Tensor mat2);
[[nodiscard]] Tensor addmm(Tensor bias, Tensor mat1, Tensor mat2);
[[nodiscard]] Tensor matmul(Tensor a, Tensor b);
/// F.linear: `bias` may be undefined. Autocast applies.
[[nodiscard]] Tensor linear(Tensor input, Tensor weight, Tensor bias);

/// F.conv2d with a stride equal to the kernel and no padding: input [batch, channels, height,
/// width], weight [out, channels, side, side]. The input takes no gradient. Autocast applies.
[[nodiscard]] Tensor patch_convolution(Tensor input, Tensor weight, Tensor bias);

// -- layers ---------------------------------------------------------------------------------------
[[nodiscard]] Tensor layer_norm(Tensor input, Tensor weight, Tensor bias);
[[nodiscard]] Tensor dropout(Tensor input, double p, bool training);
[[nodiscard]] Tensor embedding(Tensor weight, Tensor indices);
/// Over the last dimension. `dtype`: softmax(dtype=...), which first casts half input.
[[nodiscard]] Tensor softmax(Tensor self, std::optional<Dtype> dtype = {});
[[nodiscard]] Tensor log_softmax(Tensor self);
/// F.cross_entropy with mean reduction: logits [N, classes], target [N].
[[nodiscard]] Tensor cross_entropy(Tensor logits, Tensor target);

/// Liger's loss of `input` [N, in] through a head of `weight` [classes, in]: logits come and go in
/// chunks, and both gradients are made on the way.
[[nodiscard]] Tensor fused_linear_cross_entropy(Tensor input, Tensor weight, Tensor target);

struct AttentionArgs {
  Tensor mask{};  ///< boolean or additive, or undefined
  double dropout{};
  bool causal{};
  bool enable_gqa{};
};
/// F.scaled_dot_product_attention on [batch, heads, sequence, head size]; picks the back end as
/// PyTorch does by type, card and shape.
[[nodiscard]] Tensor scaled_dot_product_attention(Tensor query, Tensor key, Tensor value,
                                                  AttentionArgs args);

// -- routing (mixtures of experts) ----------------------------------------------------------------
struct Selected {
  Tensor values{};
  Tensor indices{};  ///< int64
};
[[nodiscard]] Selected topk(Tensor self, std::int64_t k);  ///< over the last dimension
[[nodiscard]] Selected max(Tensor self);                   ///< over the last dimension, kept
[[nodiscard]] Tensor argmax(Tensor self);                  ///< over the last dimension, int64
[[nodiscard]] Tensor gather(Tensor self, Tensor indices);  ///< along the last dimension
/// self[rows, columns] of a [rows, columns, n] tensor.
[[nodiscard]] Tensor index_pairs(Tensor self, Tensor rows, Tensor columns);
[[nodiscard]] Selected sort(Tensor self);                 ///< one dimension, integers
[[nodiscard]] Tensor index(Tensor self, Tensor indices);  ///< self[indices]: rows
[[nodiscard]] Tensor cumsum(Tensor self, Dtype dtype);    ///< one dimension, of that type already
[[nodiscard]] Tensor cumsum_rows(Tensor self);            ///< [rows, n], of int64 or widened
[[nodiscard]] Tensor masked_fill(Tensor self, Tensor mask);
void masked_fill_in_place(Tensor& self, Tensor mask);  ///< with gradients
/// self /= other, with gradients: what self was is kept in a copy.
void div_in_place(Tensor& self, Tensor other);
/// torch._grouped_mm: rows [tokens, in] in groups that end at `offsets`, times mat2 [groups, in,
/// out].
[[nodiscard]] Tensor grouped_mm(Tensor self, Tensor mat2, Tensor offsets);
/// The gradient of self / other for `other`.
[[nodiscard]] Tensor division_gradient(const Tensor& grad, const Tensor& self, const Tensor& other);

// -- for nodes ------------------------------------------------------------------------------------
/// The result of an element-by-element kernel on these operands: their broadcast sizes, strides as
/// TensorIterator chooses them.
[[nodiscard]] Tensor elementwise_result(std::initializer_list<const Tensor*> inputs, Dtype dtype);
/// _softmax_backward_data: the result, then a product of its size for the length of the call.
[[nodiscard]] Tensor softmax_backward(const Tensor& grad, const Tensor& result, Dtype input_dtype);
[[nodiscard]] Dtype result_type(const Tensor& a, const Tensor& b);

}  // namespace peakcast::torch
