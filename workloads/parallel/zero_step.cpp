#include "workloads/parallel/zero_step.hpp"

#include <utility>

namespace peakcast::torch {
namespace {

/// torch.isfinite: (x == x) * (abs(x) != inf).
Tensor is_finite(const Tensor& x) {
  const OpScope scope{"isfinite"};
  Tensor magnitude = pointwise("abs", {&x}, x.dtype());
  Tensor bounded = pointwise("ne", {&magnitude}, Dtype::boolean);
  Tensor number = pointwise("eq", {&x, &x}, Dtype::boolean);
  Tensor result = pointwise("mul", {&number, &bounded}, Dtype::boolean);
  number.reset();
  bounded.reset();
  magnitude.reset();
  return result;
}

/// (~torch.isfinite(norm) | (norm < 0)).any()
Tensor is_invalid(const Tensor& norm) {
  const OpScope scope{"is_invalid_grad_norm"};
  Tensor finite = is_finite(norm);
  Tensor infinite = pointwise("bitwise_not", {&finite}, Dtype::boolean);
  finite.reset();
  Tensor negative = pointwise("lt", {&norm}, Dtype::boolean);
  Tensor either = pointwise("bitwise_or", {&infinite, &negative}, Dtype::boolean);
  infinite.reset();
  negative.reset();
  return any(std::move(either));
}

Tensor scalar(const char* name, const Tensor& of) { return pointwise(name, {&of}, of.dtype()); }

/// stack(norms).pow(2).sum()
Tensor sum_of_squares(const TensorList& norms) {
  Tensor stacked = empty({static_cast<std::int64_t>(norms.size())}, Dtype::float64);
  Tensor squares = scalar("pow", stacked);
  stacked.reset();
  return sum(std::move(squares), {}, false);
}

void all_reduce(const Tensor& value, std::int64_t ranks) {
  Runtime::current().collective(
      {.kind = CollectiveCost::Kind::all_reduce, .world = ranks, .bytes = value.nbytes().count()});
}

/// Whether a norm is infinite or no number, and what then stands in for it.
struct Mask {
  explicit Mask(const Tensor& norm) {
    {
      const Tensor magnitude = scalar("abs", norm);
      infinite = pointwise("eq", {&magnitude}, Dtype::boolean);
    }
    no_number = pointwise("ne", {&norm, &norm}, Dtype::boolean);
    either = pointwise("logical_or", {&no_number, &infinite}, Dtype::boolean);
    replacement = empty({}, Dtype::float32);
  }
  ~Mask() {
    infinite.reset();
    no_number.reset();
    either.reset();
    replacement.reset();
  }
  Mask(const Mask&) = delete;
  Mask& operator=(const Mask&) = delete;
  Tensor infinite{};
  Tensor no_number{};
  Tensor either{};
  Tensor replacement{};
};

}  // namespace

void read_back() {
  Runtime& runtime = Runtime::current();
  runtime.host_wait(runtime.record_event(runtime.stream));
}

Tensor has_inf_or_nan(const Tensor& grad) {
  const OpScope scope{"has_inf_or_nan"};
  Tensor largest = amax(grad);
  Tensor below = is_finite(largest);
  largest.reset();
  Tensor smallest = amin(grad);
  Tensor above = is_finite(smallest);
  smallest.reset();
  Tensor both = pointwise("logical_and", {&below, &above}, Dtype::boolean);
  below.reset();
  above.reset();
  return pointwise("logical_not", {&both}, Dtype::boolean);
}

void check_grad_norm(const Tensor& norm) {
  const Tensor flag = is_invalid(norm);
  read_back();
}

Tensor grad_norm(const Tensor& grad) {
  const OpScope scope{"get_grad_norm_direct"};
  return vector_norm(grad.to(Dtype::float64));
}

Tensor total_norm(TensorList norms, std::int64_t ranks) {
  const OpScope scope{"get_grad_norm_direct"};
  Tensor total;
  if (norms.empty()) {
    total = empty({}, Dtype::float32);
  } else {
    total = sum_of_squares(norms).to(Dtype::float32);
  }
  all_reduce(total, ranks);
  total = scalar("pow", total);
  {  // mask_nan_or_inf_with_val_inplace
    const Mask mask{total};
    in_place("masked_fill_", total, {&mask.either});
  }
  release_backwards(norms);
  return total;
}

Tensor total_norm_of_shards(TensorList norms, std::int64_t ranks) {
  const OpScope scope{"get_grad_norm_direct"};
  Tensor squares = sum_of_squares(norms);
  all_reduce(squares, ranks);
  Tensor total = scalar("pow", squares);
  const Mask mask{total};
  Tensor replacement = mask.replacement.to(Dtype::float64);
  Tensor masked = pointwise("where", {&mask.either, &total}, Dtype::float64);
  replacement.reset();
  total = std::move(masked);
  squares.reset();
  release_backwards(norms);
  return total;
}

Tensor combine_grad_norms(const TensorList& norms) {
  const OpScope scope{"combine_grad_norm_groups"};
  Locals locals;
  Tensor& stacked =
      locals.add(empty({static_cast<std::int64_t>(norms.size())}, norms.front().dtype()));
  Tensor& invalid = locals.add();
  Tensor& combined = locals.add();
  invalid = is_invalid(stacked);
  combined = vector_norm(stacked);
  const Tensor infinity = empty_like(combined);
  return pointwise("where", {&combined, &infinity}, combined.dtype());
}

void unscale_and_clip(const TensorList& grads, const Tensor& norm) {
  const OpScope scope{"unscale_and_clip_grads"};
  Locals locals;
  Tensor& combined = locals.add();
  Tensor& clip = locals.add();
  {  // ((norm / loss_scale) + 1e-6) / clip_grad
    Tensor unscaled = scalar("div", norm);
    Tensor sum = scalar("add", unscaled);
    unscaled.reset();
    clip = scalar("div", sum);
  }
  clip = scalar("clamp", clip);
  combined = scalar("mul", clip);
  for (const Tensor& grad : grads) {
    Tensor inverse = scalar("reciprocal", combined);
    const Tensor factor = scalar("mul", inverse);
    inverse.reset();
    in_place("mul_", grad, {&factor});
  }
}

void engine_backward(const Tensor& loss, std::int64_t accumulate,
                     const std::function<void()>& epilogue) {
  const Tensor divided = loss / static_cast<double>(accumulate);
  Tensor scaled = divided * 1.0;
  backward(scaled);
  epilogue();
  scaled.reset();
}

}  // namespace peakcast::torch
