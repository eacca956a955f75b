#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "sim/core/units.hpp"
#include "sim/trace/trace.hpp"
#include "workloads/torch/dtype.hpp"
#include "workloads/torch/intrusive.hpp"
#include "workloads/torch/shape.hpp"

namespace peakcast::torch {

class Node;
class AccumulateGrad;
class Runtime;
class Tensor;

/// Where a tensor's bytes are.
enum class Device : std::uint8_t { cuda, cpu };

/// The bytes behind tensors. Its birth on the device is an `allocate` of the trace, its death (the
/// last holder lets go) a `free`; on the host `host_allocate` and `host_free`. No element is ever
/// stored.
class Storage final : public RefCounted {
 public:
  /// Zero bytes allocate nothing. Of the host's, those show that could be mapped (128 KiB).
  Storage(Bytes size, Device device, Category category);
  ~Storage() override;

  [[nodiscard]] Bytes size() const { return size_; }
  [[nodiscard]] Device device() const { return device_; }
  [[nodiscard]] StreamId stream() const { return stream_; }  ///< where it was allocated
  /// untyped_storage().resize_(): gives the old bytes back first when it shrinks to zero; growing
  /// allocates on the current stream. FSDP frees and brings back its flat parameters this way.
  void resize(Bytes size);
  /// Tensor.record_stream: `stream` uses these bytes too.
  void record_stream(StreamId stream);
  /// Says late what the buffer turned out to hold, for the breakdown at the peak.
  void set_category(Category category);
  [[nodiscard]] Category category() const { return category_; }
  [[nodiscard]] std::uint32_t buffer() const { return buffer_; }
  std::uint32_t graph_vertex{};  ///< of the op graph under construction, plus one; 0: none

 private:
  void allocate();
  void release();
  Runtime* runtime_{};  ///< borrowed; outlives every storage that shows in the trace
  Bytes size_{};
  std::uint32_t buffer_{};
  std::uint32_t allocate_op_{};
  StreamId stream_{};
  Device device_{};
  Category category_{};
  bool live_{};
  bool recorded_{};
};

using TensorHook = std::function<Tensor(const Tensor& grad)>;
using PostAccumulateHook = std::function<void(Tensor& parameter)>;

/// What a Tensor handle points at.
struct TensorImpl final : RefCounted {
  TensorImpl();
  ~TensorImpl() override;
  Ref<Storage> storage{};
  Shape sizes{};
  Shape strides{};
  Dtype dtype{};
  bool requires_grad{};       ///< set by the user; leaves only
  bool wrapped_number{};      ///< a Python number: no bytes, weakest in type promotion
  std::uint32_t output_nr{};  ///< which output of grad_fn this is
  Ref<Node> grad_fn{};
  Ref<TensorImpl> base{};  ///< of a view: holds the storage a second time, as PyTorch's does
  Ref<TensorImpl> grad{};
  AccumulateGrad* accumulator{};  ///< not owned; the graph owns it, and it clears this when it dies
  std::vector<PostAccumulateHook> post_accumulate_hooks{};
};

/// A tensor as Python sees it: a counted handle. Copying a handle is taking a reference; moving
/// from one is the end of a temporary. Copies of handles cost an increment, no allocation.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(Ref<TensorImpl> impl) : impl_{std::move(impl)} {}

  [[nodiscard]] bool defined() const { return static_cast<bool>(impl_); }
  void reset() { impl_.reset(); }
  [[nodiscard]] TensorImpl* impl() const { return impl_.get(); }
  [[nodiscard]] const Ref<TensorImpl>& ref() const { return impl_; }
  TensorImpl* operator->() const { return impl_.get(); }
  [[nodiscard]] bool is_same(const Tensor& other) const { return impl_ == other.impl_; }

  [[nodiscard]] const Shape& sizes() const { return impl_->sizes; }
  [[nodiscard]] const Shape& strides() const { return impl_->strides; }
  [[nodiscard]] std::int64_t dim() const { return static_cast<std::int64_t>(impl_->sizes.size()); }
  /// Size of dimension `d`; negative counts from the end.
  [[nodiscard]] std::int64_t size(std::int64_t d) const;
  [[nodiscard]] std::int64_t numel() const { return impl_->sizes.numel(); }
  [[nodiscard]] Bytes nbytes() const { return Bytes{numel() * element_size(impl_->dtype)}; }
  [[nodiscard]] Dtype dtype() const { return impl_->dtype; }
  [[nodiscard]] Device device() const { return impl_->storage->device(); }
  [[nodiscard]] const Ref<Storage>& storage() const { return impl_->storage; }
  [[nodiscard]] bool is_contiguous() const;
  [[nodiscard]] bool is_non_overlapping_and_dense() const;
  [[nodiscard]] bool is_view() const { return static_cast<bool>(impl_->base); }

  [[nodiscard]] bool requires_grad() const { return impl_->requires_grad || impl_->grad_fn; }
  [[nodiscard]] bool is_leaf() const { return !impl_->grad_fn; }
  Tensor& set_requires_grad(bool value);
  [[nodiscard]] Tensor grad() const { return Tensor{impl_->grad}; }
  void set_grad(const Tensor& grad) { impl_->grad = grad.impl_; }
  /// parameter.data = other: takes over the storage, sizes and strides, keeps the identity.
  void set_data(const Tensor& other);
  void record_stream(StreamId stream) const { impl_->storage->record_stream(stream); }

  /// Views. They record their base, and a node when gradients flow. A `&&` overload ends the
  /// temporary it is called on, as Python does.
  [[nodiscard]] Tensor view(const Shape& sizes) const&;     ///< -1 is inferred; must be possible
  [[nodiscard]] Tensor reshape(const Shape& sizes) const&;  ///< copies when a view is impossible
  [[nodiscard]] Tensor transpose(std::int64_t a, std::int64_t b) const&;
  [[nodiscard]] Tensor permute(const Shape& order) const&;
  [[nodiscard]] Tensor t() const&;
  [[nodiscard]] Tensor expand(const Shape& sizes) const&;  ///< -1 keeps a size
  [[nodiscard]] Tensor unsqueeze(std::int64_t d) const&;
  [[nodiscard]] Tensor squeeze(std::int64_t d) const&;
  [[nodiscard]] Tensor select(std::int64_t d, std::int64_t index) const&;
  [[nodiscard]] Tensor slice(std::int64_t d, std::int64_t from, std::int64_t to) const&;
  /// self[..., from::step] along dimension `d`.
  [[nodiscard]] Tensor every(std::int64_t d, std::int64_t from, std::int64_t step) const&;
  [[nodiscard]] Tensor flatten(std::int64_t from, std::int64_t to) const&;
  [[nodiscard]] Tensor detach() const&;
  [[nodiscard]] Tensor contiguous() const&;     ///< itself when it is
  [[nodiscard]] Tensor to(Dtype dtype) const&;  ///< itself when it is of that type

  [[nodiscard]] Tensor view(const Shape& sizes) && { return end(take().view(sizes)); }
  [[nodiscard]] Tensor reshape(const Shape& sizes) && { return end(take().reshape(sizes)); }
  [[nodiscard]] Tensor transpose(std::int64_t a, std::int64_t b) && {
    return end(take().transpose(a, b));
  }
  [[nodiscard]] Tensor permute(const Shape& order) && { return end(take().permute(order)); }
  [[nodiscard]] Tensor t() && { return end(take().t()); }
  [[nodiscard]] Tensor expand(const Shape& sizes) && { return end(take().expand(sizes)); }
  [[nodiscard]] Tensor unsqueeze(std::int64_t d) && { return end(take().unsqueeze(d)); }
  [[nodiscard]] Tensor squeeze(std::int64_t d) && { return end(take().squeeze(d)); }
  [[nodiscard]] Tensor select(std::int64_t d, std::int64_t i) && {
    return end(take().select(d, i));
  }
  [[nodiscard]] Tensor slice(std::int64_t d, std::int64_t from, std::int64_t to) && {
    return end(take().slice(d, from, to));
  }
  [[nodiscard]] Tensor flatten(std::int64_t from, std::int64_t to) && {
    return end(take().flatten(from, to));
  }
  [[nodiscard]] Tensor detach() && { return end(take().detach()); }
  [[nodiscard]] Tensor contiguous() && { return end(take().contiguous()); }
  [[nodiscard]] Tensor to(Dtype dtype) && { return end(take().to(dtype)); }

 private:
  [[nodiscard]] const Tensor& take() const { return *this; }
  [[nodiscard]] Tensor end(Tensor result) {
    reset();
    return result;
  }
  Ref<TensorImpl> impl_{};
};

using TensorList = std::vector<Tensor>;

/// A Python list lets go of its items from the last to the first.
inline void release_backwards(TensorList& list) {
  while (!list.empty()) {
    list.pop_back();
  }
}

/// A Python frame's local names. A frame that ends lets go of them in the order in which its code
/// names them (arguments first), where C++ would go backwards; so locals that hold the last
/// reference to something live here:
///
///     Locals locals;
///     Tensor& hidden = locals.add(std::move(argument));
///     Tensor& gate = locals.add();
class Locals {
 public:
  Locals() = default;
  Locals(const Locals&) = delete;
  Locals& operator=(const Locals&) = delete;
  ~Locals();
  /// The reference stays valid as long as this frame.
  Tensor& add(Tensor value = {});

 private:
  std::vector<std::unique_ptr<Tensor>> names_{};
};

}  // namespace peakcast::torch
