#include "workloads/parallel/flat_parameter.hpp"

#include <algorithm>

namespace peakcast::torch {
namespace {

/// Makes the tensor that a module's name stands for a view into the unsharded flat parameter, and
/// part of the graph: setattr(module, name, view), with the module's handle keeping its identity.
void become(const Tensor& slot, const Tensor& view) {
  TensorImpl& impl = *slot.impl();
  const TensorImpl& other = *view.impl();
  impl.storage = other.storage;
  impl.sizes = other.sizes;
  impl.strides = other.strides;
  impl.dtype = other.dtype;
  impl.requires_grad = false;
  impl.output_nr = other.output_nr;
  impl.grad_fn = other.grad_fn;
  impl.base = other.base;
}

/// torch.split(flat, sizes) with as many pieces as a unit has tensors: views, one node for all.
class SplitPiecesBackward final : public Node {
 public:
  SplitPiecesBackward(std::vector<std::int64_t> pieces, Dtype dtype)
      : pieces_{std::move(pieces)}, dtype_{dtype} {}
  [[nodiscard]] const char* name() const override { return "SplitWithSizesBackward"; }
  /// Pieces without a gradient (padding) are filled with zeros, then all are concatenated.
  [[nodiscard]] TensorList apply(TensorList& grads) override {
    const TensorList& arrived = grads;
    TensorList pieces;
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      pieces.push_back(arrived[i].defined() ? arrived[i].reshape({pieces_[i]})
                                            : empty({pieces_[i]}, dtype_));
    }
    TensorList result;
    result.push_back(cat(pieces, 0));
    result.back().storage()->set_category(Category::gradient);
    return result;
  }

 private:
  std::vector<std::int64_t> pieces_;
  Dtype dtype_;
};

TensorList split_pieces(const Tensor& flat, const std::vector<std::int64_t>& pieces) {
  const Ref<SplitPiecesBackward> node =
      make_node<SplitPiecesBackward>({&flat}, pieces, flat.dtype());
  TensorList views;
  std::int64_t at = 0;
  for (const std::int64_t length : pieces) {
    Tensor view;
    {
      const GradMode no_grad{false};
      view = flat.slice(0, at, at + length);
    }
    views.push_back(with_history(std::move(view), node));
    at += length;
  }
  return views;
}

}  // namespace

FlatParameter::FlatParameter(Module& module, const FlatLayout& layout, const Claim& claim,
                             const IsUnit& is_unit)
    : wrapped{&module}, layout_{layout} {
  flatten(claim, is_unit);
  shard();
}

/// _init_flat_param_and_metadata: every tensor starts at a multiple of 16 bytes of the compute
/// type, the whole is a multiple of the ranks.
void FlatParameter::flatten(const Claim& claim, const IsUnit& is_unit) {
  const OpScope scope{"fsdp.flatten"};
  TensorList pieces;
  TensorList padding;  // ends with this function
  bool first = true;
  std::int64_t align = 0;
  const auto pad = [&](std::int64_t count) {
    const Tensor ones = empty({count}, dtype);
    Tensor value = empty({count}, dtype);  // ones * the padding value
    Runtime::current().libraries.use_kernels();
    pieces.push_back(value);
    padding.push_back(std::move(value));
    pieces_.push_back(count);
    originals_at_.push_back(-1);
    elements += count;
  };
  const auto visit = [&](const auto& self, Module& module) -> void {
    for (const Module::Named& named : module.own_parameters) {
      const Tensor& parameter = named.tensor;
      if (!claim(parameter)) {
        continue;  // another unit's, or tied to one that is in already
      }
      if (first) {
        first = false;
        dtype = parameter.dtype();
        compute_dtype = layout_.param_dtype.value_or(dtype);
        // A parameter type without a reduce type: gradients are reduced as they are computed.
        reduce_dtype = layout_.reduce_dtype.value_or(compute_dtype);
        align = 16 / element_size(compute_dtype);
      }
      if (const std::int64_t over = elements % align; over != 0) {
        pad(align - over);
      }
      Original original;
      original.slot = parameter;
      original.sizes = parameter.sizes();
      original.shard = Tensor{make_ref<TensorImpl>()};
      originals_at_.push_back(static_cast<std::int64_t>(originals.size()));
      originals.push_back(std::move(original));
      pieces_.push_back(parameter.numel());
      elements += parameter.numel();
      pieces.push_back(parameter.detach().view({parameter.numel()}));
    }
    for (const Module::Child& child : module.children) {
      if (!is_unit(*child.module)) {
        self(self, *child.module);
      }
    }
  };
  visit(visit, *wrapped);
  check(!first, "a wrapped module has parameters");
  if (const std::int64_t over = elements % layout_.ranks; over != 0) {
    pad(layout_.ranks - over);
  }
  flat = cat(pieces, 0).detach();
  flat.set_requires_grad(true);
  pieces.clear();
  while (!padding.empty()) {  // a Python list lets go of its last item first
    padding.pop_back();
  }
  flat.storage()->set_category(Category::parameter);
  chunk = chunk_of(elements, layout_.ranks, layout_.rank);
}

void FlatParameter::shard() {
  const OpScope scope{"fsdp.shard"};
  if (layout_.sharded) {
    {
      const Tensor piece = flat.detach().slice(0, chunk.begin, chunk.begin + chunk.length);
      local_shard = clone(piece);
      local_shard.storage()->set_category(Category::parameter);
    }
    flat.storage()->resize(Bytes{});
    flat.set_data(local_shard);
  }
  // Which elements of which parameter lie in this rank's shard.
  const std::int64_t begin = layout_.sharded ? chunk.begin : 0;
  const std::int64_t end = layout_.sharded ? chunk.begin + chunk.length : elements;
  std::int64_t at = 0;
  for (std::size_t piece = 0; piece < pieces_.size(); ++piece) {
    const std::int64_t length = pieces_[piece];
    if (const std::int64_t index = originals_at_[piece]; index >= 0) {
      Original& original = originals[static_cast<std::size_t>(index)];
      const std::int64_t from = std::max(begin, at);
      const std::int64_t to = std::min(end, at + length);
      original.length = std::max<std::int64_t>(0, to - from);
      original.offset = original.length > 0 ? from - begin : 0;
      original.shard->requires_grad = true;
    }
    at += length;
  }
  use_sharded_views(false);
  for (Original& original : originals) {
    // The modules' own data goes when the views take over.
    original.slot.set_data(original.length > 0 || !layout_.sharded ? original.shard
                                                                   : empty({0}, dtype));
  }
}

void FlatParameter::prepare() {
  local_shard = flat.detach();
  const std::int64_t local = local_shard.numel();
  if (mixed()) {
    mp_shard = empty({local}, compute_dtype, Category::communication);
    mp_shard.storage()->resize(Bytes{});
  }
  if (layout_.sharded) {
    full = empty({local * layout_.ranks}, compute_dtype, Category::parameter);
    full.storage()->resize(Bytes{});
    if (mixed()) {
      // The full-precision twin, for summon_full_params: made and emptied, too.
      const Tensor twin = empty({local * layout_.ranks}, dtype, Category::parameter);
    }
  }
}

void FlatParameter::count_views() const {
  Runtime::current().host_work(HostWork::shard_view, static_cast<std::int64_t>(originals.size()));
}

void FlatParameter::use_views() {
  count_views();
  const GradMode grad{true};
  const TensorList splits = split_pieces(flat, pieces_);
  for (std::size_t piece = 0; piece < splits.size(); ++piece) {
    if (const std::int64_t index = originals_at_[piece]; index >= 0) {
      Original& original = originals[static_cast<std::size_t>(index)];
      become(original.slot, splits[piece].view(original.sizes));
    }
  }
}

void FlatParameter::use_sharded_views(bool ended) {
  count_views();
  const GradMode no_grad{false};
  for (Original& original : originals) {
    if (ended) {
      original.slot->grad_fn.reset();
      original.slot->base.reset();
    }
    if (original.length == 0) {
      original.shard.set_data(empty({0}, dtype));
      continue;
    }
    const Tensor data = flat.detach();
    if (layout_.sharded) {
      original.shard.set_data(data.slice(0, original.offset, original.offset + original.length));
    } else {
      original.shard.set_data(
          data.slice(0, original.offset, original.offset + original.length).view(original.sizes));
    }
  }
}

void FlatParameter::use_sharded_grad_views() {
  count_views();
  const GradMode no_grad{false};
  const Tensor grad = saved_grad.defined() ? saved_grad : flat.grad();
  for (Original& original : originals) {
    if (!grad.defined() || original.length == 0) {
      original.shard.set_grad({});
      continue;
    }
    const Tensor view = grad.slice(0, original.offset, original.offset + original.length);
    original.shard.set_grad(layout_.sharded ? view : view.view(original.sizes));
  }
}

}  // namespace peakcast::torch
