#include "workloads/torch/tensor.hpp"

#include <algorithm>
#include <numeric>

#include "workloads/torch/autograd.hpp"
#include "workloads/torch/op_graph.hpp"
#include "workloads/torch/ops.hpp"
#include "workloads/torch/runtime.hpp"

namespace peakcast::torch {
namespace {

/// glibc's smallest threshold (M_MMAP_THRESHOLD): what is below it is never mapped.
constexpr Bytes kSmallestMapping{128 << 10};

std::size_t wrap(std::int64_t d, std::int64_t dims) {
  const std::int64_t wrapped = d < 0 ? d + dims : d;
  check(wrapped >= 0 && wrapped < dims, "dimension out of range");
  return static_cast<std::size_t>(wrapped);
}

/// A tensor on `base`'s storage. Records the base, as VariableType's as_view does also in no-grad
/// mode: the base's own hold on the storage is what makes a view ineligible for in-place merging.
Tensor make_view(const Tensor& self, const Shape& sizes, const Shape& strides) {
  Ref<TensorImpl> impl = make_ref<TensorImpl>();
  impl->storage = self.storage();
  impl->sizes = sizes;
  impl->strides = strides;
  impl->dtype = self.dtype();
  impl->base = self->base ? self->base : self.ref();
  return Tensor{std::move(impl)};
}

/// at::detail::computeStride: strides of `to` over the memory of (sizes, strides), or nothing.
/// Source: PyTorch, aten/src/ATen/TensorUtils.cpp.
bool view_strides(const Shape& sizes, const Shape& strides, const Shape& to, Shape& result) {
  result = contiguous_strides(to);
  if (sizes.numel() == 0) {
    return true;
  }
  std::int64_t view_d = static_cast<std::int64_t>(to.size()) - 1;
  if (sizes.empty()) {
    return true;
  }
  std::int64_t chunk_base = strides.back();
  std::int64_t tensor_numel = 1;
  std::int64_t view_numel = 1;
  for (std::int64_t d = static_cast<std::int64_t>(sizes.size()) - 1; d >= 0; --d) {
    const auto i = static_cast<std::size_t>(d);
    tensor_numel *= sizes[i];
    if (d == 0 || (sizes[i - 1] != 1 && strides[i - 1] != tensor_numel * chunk_base)) {
      while (view_d >= 0 &&
             (view_numel < tensor_numel || to[static_cast<std::size_t>(view_d)] == 1)) {
        result[static_cast<std::size_t>(view_d)] = view_numel * chunk_base;
        view_numel *= to[static_cast<std::size_t>(view_d)];
        --view_d;
      }
      if (view_numel != tensor_numel) {
        return false;
      }
      if (d > 0) {
        chunk_base = strides[i - 1];
        tensor_numel = 1;
        view_numel = 1;
      }
    }
  }
  return view_d == -1;
}

Shape inferred(const Shape& sizes, std::int64_t numel) {
  Shape result = sizes;
  std::int64_t known = 1;
  std::size_t unknown = sizes.size();
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == -1) {
      unknown = i;
    } else {
      known *= sizes[i];
    }
  }
  if (unknown < sizes.size()) {
    check(known > 0 && numel % known == 0, "view sizes do not fit the tensor");
    result[unknown] = numel / known;
  }
  check(result.numel() == numel, "view sizes do not fit the tensor");
  return result;
}

struct ViewBackward final : Node {
  explicit ViewBackward(Shape sizes) : self_sizes{sizes} {}
  [[nodiscard]] const char* name() const override { return "ViewBackward0"; }
  TensorList apply(TensorList& grads) override { return {grads[0].reshape(self_sizes)}; }
  Shape self_sizes;
};
struct TransposeBackward final : Node {
  TransposeBackward(std::int64_t first, std::int64_t second) : a{first}, b{second} {}
  [[nodiscard]] const char* name() const override { return "TransposeBackward0"; }
  TensorList apply(TensorList& grads) override { return {grads[0].transpose(a, b)}; }
  std::int64_t a;
  std::int64_t b;
};
struct PermuteBackward final : Node {
  explicit PermuteBackward(Shape permutation) : order{permutation} {}
  [[nodiscard]] const char* name() const override { return "PermuteBackward0"; }
  TensorList apply(TensorList& grads) override {
    Shape inverse = order;
    for (std::size_t i = 0; i < order.size(); ++i) {
      inverse[wrap(order[i], static_cast<std::int64_t>(order.size()))] =
          static_cast<std::int64_t>(i);
    }
    return {grads[0].permute(inverse)};
  }
  Shape order;
};
struct TBackward final : Node {
  [[nodiscard]] const char* name() const override { return "TBackward0"; }
  TensorList apply(TensorList& grads) override { return {grads[0].t()}; }
};
struct ExpandBackward final : Node {
  explicit ExpandBackward(Shape sizes) : self_sizes{sizes} {}
  [[nodiscard]] const char* name() const override { return "ExpandBackward0"; }
  TensorList apply(TensorList& grads) override { return {sum_to(grads[0], self_sizes)}; }
  Shape self_sizes;
};
struct UnsqueezeBackward final : Node {
  explicit UnsqueezeBackward(std::int64_t dim) : d{dim} {}
  [[nodiscard]] const char* name() const override { return "UnsqueezeBackward0"; }
  TensorList apply(TensorList& grads) override { return {grads[0].squeeze(d)}; }
  std::int64_t d;
};
struct SqueezeBackward final : Node {
  explicit SqueezeBackward(std::int64_t dim) : d{dim} {}
  [[nodiscard]] const char* name() const override { return "SqueezeBackward1"; }
  TensorList apply(TensorList& grads) override { return {grads[0].unsqueeze(d)}; }
  std::int64_t d;
};
/// select_backward and slice_backward: zeros of the full size, then a copy into the piece.
struct PieceBackward final : Node {
  PieceBackward(const char* node_name, Shape sizes) : label{node_name}, self_sizes{sizes} {}
  [[nodiscard]] const char* name() const override { return label; }
  TensorList apply(TensorList& grads) override {
    const OpScope scope{"zeros"};
    return {empty(self_sizes, grads[0].dtype())};
  }
  const char* label;
  Shape self_sizes;
};
struct ToCopyBackward final : Node {
  explicit ToCopyBackward(Dtype dtype) : self_dtype{dtype} {}
  [[nodiscard]] const char* name() const override { return "ToCopyBackward0"; }
  TensorList apply(TensorList& grads) override { return {grads[0].to(self_dtype)}; }
  Dtype self_dtype;
};

}  // namespace

std::string_view to_string(Dtype dtype) {
  switch (dtype) {
    case Dtype::boolean:
      return "bool";
    case Dtype::uint8:
      return "uint8";
    case Dtype::int32:
      return "int32";
    case Dtype::int64:
      return "int64";
    case Dtype::float16:
      return "float16";
    case Dtype::bfloat16:
      return "bfloat16";
    case Dtype::float32:
      return "float32";
    case Dtype::float64:
      return "float64";
  }
  return "";
}

Shape contiguous_strides(const Shape& sizes) {
  Shape strides = sizes;
  std::int64_t stride = 1;
  for (std::size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<std::int64_t>(sizes[i], 1);
  }
  return strides;
}

Shape broadcast(const Shape& a, const Shape& b) {
  const Shape& longer = a.size() >= b.size() ? a : b;
  const Shape& shorter = a.size() >= b.size() ? b : a;
  Shape result = longer;
  const std::size_t offset = longer.size() - shorter.size();
  for (std::size_t i = 0; i < shorter.size(); ++i) {
    std::int64_t& size = result[i + offset];
    check(size == shorter[i] || size == 1 || shorter[i] == 1, "sizes do not broadcast");
    size = size == 1 ? shorter[i] : size;
  }
  return result;
}

void RefCounted::drop_reference() {
  if (--references_ == 0) {
    delete this;
  }
}

TensorImpl::TensorImpl() = default;
TensorImpl::~TensorImpl() = default;

// -- Storage --------------------------------------------------------------------------------------

Storage::Storage(Bytes size, Device device, Category category)
    : size_{size}, device_{device}, category_{category} {
  allocate();
}

Storage::~Storage() { release(); }

void Storage::allocate() {
  if (size_ == Bytes{} || (device_ == Device::cpu && size_ < kSmallestMapping)) {
    return;
  }
  Runtime& runtime = Runtime::current();
  runtime_ = &runtime;
  if (device_ == Device::cpu) {
    buffer_ = runtime.host_allocate(size_);
    live_ = true;
    return;
  }
  stream_ = runtime.stream;
  const Runtime::Allocation made = runtime.allocate(size_, category_);
  buffer_ = made.buffer;
  allocate_op_ = made.op_index;
  live_ = true;
  recorded_ = false;
  if (OpGraph* graph = runtime.graph()) {
    graph->on_allocate(*this);
  }
}

void Storage::release() {
  if (!live_) {
    return;
  }
  live_ = false;
  if (device_ == Device::cpu) {
    runtime_->host_free(buffer_);
  } else {
    runtime_->free(buffer_, stream_, !recorded_);
  }
}

void Storage::resize(Bytes size) {
  if (size == size_) {
    return;
  }
  release();
  size_ = size;
  allocate();
}

void Storage::record_stream(StreamId stream) {
  if (live_ && device_ == Device::cuda && stream != stream_) {
    recorded_ = true;
    Runtime::current().record_stream(buffer_, stream);
  }
}

void Storage::set_category(Category category) {
  category_ = category;
  if (live_ && device_ == Device::cuda) {
    Runtime::current().set_category(allocate_op_, category);
  }
}

// -- Tensor ---------------------------------------------------------------------------------------

std::int64_t Tensor::size(std::int64_t d) const { return sizes()[wrap(d, dim())]; }

bool Tensor::is_contiguous() const {
  std::int64_t expected = 1;
  if (numel() == 0) {
    return true;
  }
  for (std::size_t i = sizes().size(); i-- > 0;) {
    if (sizes()[i] != 1 && strides()[i] != expected) {
      return false;
    }
    expected *= sizes()[i];
  }
  return true;
}

bool Tensor::is_non_overlapping_and_dense() const {
  std::array<std::size_t, Shape::kMaxDims> order{};
  const std::size_t n = sizes().size();
  for (std::size_t i = 0; i < n; ++i) {
    order[i] = i;
  }
  std::sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(n),
            [&](std::size_t a, std::size_t b) {
              // Dimensions of one element go last, the rest by stride; ties by index.
              const bool one_a = sizes()[a] < 2;
              const bool one_b = sizes()[b] < 2;
              if (one_a != one_b) {
                return one_b;
              }
              return strides()[a] != strides()[b] ? strides()[a] < strides()[b] : a < b;
            });
  std::int64_t expected = 1;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t d = order[i];
    if (sizes()[d] < 2) {
      return true;
    }
    if (strides()[d] != expected) {
      return false;
    }
    expected *= sizes()[d];
  }
  return true;
}

Tensor& Tensor::set_requires_grad(bool value) {
  impl_->requires_grad = value;
  return *this;
}

void Tensor::set_data(const Tensor& other) {
  impl_->storage = other->storage;
  impl_->sizes = other->sizes;
  impl_->strides = other->strides;
  impl_->dtype = other->dtype;
}

Tensor Tensor::view(const Shape& to) const& {
  const Shape target = inferred(to, numel());
  Shape strides_of_view;
  check(view_strides(sizes(), strides(), target, strides_of_view),
        "view is not possible on these strides");
  const auto node = make_node<ViewBackward>({this}, sizes());
  return with_history(make_view(*this, target, strides_of_view), node);
}

Tensor Tensor::reshape(const Shape& to) const& {
  const Shape target = inferred(to, numel());
  Shape strides_of_view;
  if (view_strides(sizes(), strides(), target, strides_of_view)) {
    const auto node = make_node<ViewBackward>({this}, sizes());
    return with_history(make_view(*this, target, strides_of_view), node);
  }
  // _unsafe_view of a copy: no base is recorded, so the copy's only holder is the result.
  Tensor copy = clone(*this);
  copy->strides = contiguous_strides(copy.sizes());
  Ref<TensorImpl> impl = make_ref<TensorImpl>();
  impl->storage = copy.storage();
  impl->sizes = target;
  impl->strides = contiguous_strides(target);
  impl->dtype = dtype();
  const auto node = make_node<ViewBackward>({&copy}, copy.sizes());
  return with_history(Tensor{std::move(impl)}, node);
}

Tensor Tensor::transpose(std::int64_t a, std::int64_t b) const& {
  const std::size_t i = wrap(a, dim());
  const std::size_t j = wrap(b, dim());
  Shape new_sizes = sizes();
  Shape new_strides = strides();
  std::swap(new_sizes[i], new_sizes[j]);
  std::swap(new_strides[i], new_strides[j]);
  const auto node = make_node<TransposeBackward>({this}, a, b);
  return with_history(make_view(*this, new_sizes, new_strides), node);
}

Tensor Tensor::permute(const Shape& order) const& {
  check(order.size() == sizes().size(), "permute names every dimension");
  Shape new_sizes = sizes();
  Shape new_strides = strides();
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::size_t from = wrap(order[i], dim());
    new_sizes[i] = sizes()[from];
    new_strides[i] = strides()[from];
  }
  const auto node = make_node<PermuteBackward>({this}, order);
  return with_history(make_view(*this, new_sizes, new_strides), node);
}

Tensor Tensor::t() const& {
  check(dim() == 2, "t() takes a matrix");
  const auto node = make_node<TBackward>({this});
  return with_history(make_view(*this, {sizes()[1], sizes()[0]}, {strides()[1], strides()[0]}),
                      node);
}

Tensor Tensor::expand(const Shape& to) const& {
  check(to.size() >= sizes().size(), "expand does not drop dimensions");
  Shape new_sizes = to;
  Shape new_strides = to;
  const std::size_t offset = to.size() - sizes().size();
  for (std::size_t i = 0; i < to.size(); ++i) {
    if (i < offset) {
      new_strides[i] = 0;
      continue;
    }
    const std::int64_t own = sizes()[i - offset];
    new_sizes[i] = to[i] == -1 ? own : to[i];
    check(new_sizes[i] == own || own == 1, "expand only stretches dimensions of one element");
    new_strides[i] = new_sizes[i] == own ? strides()[i - offset] : 0;
  }
  const auto node = make_node<ExpandBackward>({this}, sizes());
  return with_history(make_view(*this, new_sizes, new_strides), node);
}

Tensor Tensor::unsqueeze(std::int64_t d) const& {
  const std::size_t at = wrap(d, dim() + 1);
  Shape new_sizes = sizes();
  Shape new_strides = strides();
  const std::int64_t stride = at < sizes().size() ? sizes()[at] * strides()[at] : 1;
  new_sizes.insert(at, 1);
  new_strides.insert(at, stride);
  const auto node = make_node<UnsqueezeBackward>({this}, static_cast<std::int64_t>(at));
  return with_history(make_view(*this, new_sizes, new_strides), node);
}

Tensor Tensor::squeeze(std::int64_t d) const& {
  const std::size_t at = wrap(d, dim());
  Shape new_sizes = sizes();
  Shape new_strides = strides();
  const auto node = make_node<SqueezeBackward>({this}, static_cast<std::int64_t>(at));
  if (sizes()[at] == 1) {
    new_sizes.erase(at);
    new_strides.erase(at);
  }
  return with_history(make_view(*this, new_sizes, new_strides), node);
}

Tensor Tensor::select(std::int64_t d, std::int64_t index) const& {
  const std::size_t at = wrap(d, dim());
  check(index < sizes()[at], "select beyond the end");
  Shape new_sizes = sizes();
  Shape new_strides = strides();
  new_sizes.erase(at);
  new_strides.erase(at);
  const auto node = make_node<PieceBackward>({this}, "SelectBackward0", sizes());
  return with_history(make_view(*this, new_sizes, new_strides), node);
}

Tensor Tensor::slice(std::int64_t d, std::int64_t from, std::int64_t to) const& {
  const std::size_t at = wrap(d, dim());
  const std::int64_t length = sizes()[at];
  const std::int64_t begin = std::clamp(from < 0 ? from + length : from, std::int64_t{0}, length);
  const std::int64_t end = std::clamp(to < 0 ? to + length : to, begin, length);
  Shape new_sizes = sizes();
  new_sizes[at] = end - begin;
  const auto node = make_node<PieceBackward>({this}, "SliceBackward0", sizes());
  return with_history(make_view(*this, new_sizes, strides()), node);
}

Tensor Tensor::every(std::int64_t d, std::int64_t from, std::int64_t step) const& {
  const std::size_t at = wrap(d, dim());
  Shape new_sizes = sizes();
  Shape new_strides = strides();
  new_sizes[at] = (sizes()[at] - from + step - 1) / step;
  new_strides[at] *= step;
  const auto node = make_node<PieceBackward>({this}, "SliceBackward0", sizes());
  return with_history(make_view(*this, new_sizes, new_strides), node);
}

Tensor Tensor::flatten(std::int64_t from, std::int64_t to) const& {
  const std::size_t begin = wrap(from, dim());
  const std::size_t last = wrap(to, dim());
  Shape target;
  std::int64_t product = 1;
  for (std::size_t i = 0; i < sizes().size(); ++i) {
    if (i < begin || i > last) {
      target.push_back(sizes()[i]);
      continue;
    }
    product *= sizes()[i];
    if (i == last) {
      target.push_back(product);
    }
  }
  return reshape(target);
}

Tensor Tensor::detach() const& {
  Ref<TensorImpl> impl = make_ref<TensorImpl>();
  impl->storage = storage();
  impl->sizes = sizes();
  impl->strides = strides();
  impl->dtype = dtype();
  return Tensor{std::move(impl)};
}

Tensor Tensor::contiguous() const& {
  if (is_contiguous()) {
    return *this;
  }
  Tensor copy = clone(*this);
  copy->strides = contiguous_strides(copy.sizes());
  return copy;
}

Tensor Tensor::to(Dtype target) const& {
  if (dtype() == target) {
    return *this;
  }
  const OpScope scope{"_to_copy", {this}};
  const auto node = make_node<ToCopyBackward>({this}, dtype());
  Tensor out = empty_like(*this, target);
  Runtime::current().launch(
      {.kind = KernelCost::Kind::elementwise,
       .dtype = target,
       .bytes = nbytes().count() + out.nbytes().count(),
       .access = is_half(dtype()) ? KernelCost::Access::converting : KernelCost::Access::vectorized,
       .elements = numel(),
       .from_native = true});
  return with_history(std::move(out), node);
}

// -- Locals ---------------------------------------------------------------------------------------

Locals::~Locals() {
  for (const auto& name : names_) {
    name->reset();
  }
}

Tensor& Locals::add(Tensor value) {
  names_.push_back(std::make_unique<Tensor>(std::move(value)));
  return *names_.back();
}

}  // namespace peakcast::torch
