#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sim/engine/cost_model.hpp"
#include "sim/trace/trace.hpp"
#include "workloads/gpu_traits.hpp"
#include "workloads/torch/tensor.hpp"

namespace peakcast::torch {

class Engine;
class OpGraph;
class SavedTensorHooks;

/// Which host thread runs: backward nodes run on the device's own thread, and cuBLAS keeps a handle
/// (with a workspace per stream) for each.
enum class HostThread : std::uint8_t { main, autograd };
inline constexpr int kHostThreadCount = 2;

/// What one kernel (or call of several) does, for a cost model. Bytes are device traffic read plus
/// written; no duration is decided here.
struct KernelCost {
  enum class Kind : std::uint8_t {
    elementwise,
    reduction,         ///< along rows
    column_reduction,  ///< along another dimension than the last
    matmul,
    attention,
    copy,
    host_copy
  };
  /// How an elementwise kernel reads: in order with wide loads, in order with conversions on the
  /// way, or element by element because an operand is broadcast or strided.
  enum class Access : std::uint8_t { vectorized, converting, indexed };
  Kind kind{};
  Dtype dtype{};  ///< what it computes in
  std::int64_t flops{};
  std::int64_t bytes{};
  std::int64_t kernels{1};    ///< that share this work
  Access access{};            ///< elementwise, copy
  std::int64_t elements{};    ///< of the result; elementwise and copy
  bool from_native{};         ///< issued by native code in passing: casts, sums of gradients
  Matmul matmul{};            ///< matmul: its shape
  AttentionWork attention{};  ///< attention: its shape
};
/// What the host does around kernels.
enum class HostWork : std::uint8_t {
  op,              ///< an operator or a node of the backward, up to and with its launch
  native_op,       ///< one that native code issues in passing
  kernel_load,     ///< an operator's first launch: its kernels are loaded (CUDA's lazy loading)
  module_call,     ///< nn.Module.__call__ and the Python of its forward
  saved_hook,      ///< a Python hook on one saved tensor, and its share of what makes a checkpoint
  backward_call,   ///< Tensor.backward() wakes the device's own thread
  graph_node,      ///< one node is counted before a backward pass, or destroyed
  attention_plan,  ///< cuDNN builds an execution plan
  parameter,       ///< one parameter's share of a foreach optimizer's step
  shard_view,      ///< FSDP points one parameter at other data
  shard_hook,      ///< one of FSDP's or DDP's hooks, or one collective's call
};
/// A collective as the cost model sees it; `bytes` is the size of the full (gathered) buffer.
struct CollectiveCost {
  enum class Kind : std::uint8_t { all_reduce, all_gather, reduce_scatter, broadcast };
  Kind kind{};
  std::int64_t world{};
  std::int64_t bytes{};
};
/// Turns costs into nanoseconds. Pure; borrowed by the Runtime. Without one no launch is emitted.
class CostModel {
 public:
  virtual ~CostModel() = default;
  [[nodiscard]] virtual SimDuration kernel(const KernelCost& cost) const = 0;
  [[nodiscard]] virtual SimDuration collective(const CollectiveCost& cost) const = 0;
  /// Host time of one such piece of work on that thread.
  [[nodiscard]] virtual SimDuration host(HostWork work, HostThread thread) const = 0;
};

struct RuntimeOptions {
  GpuTraits gpu{};
  const CostModel* cost_model{};  ///< null: a pure memory trace, without launches
  bool record_graph{};            ///< build the op graph of the forward pass
};

/// One simulated process: the trace under construction and the modes that PyTorch keeps per thread.
/// Ops reach it through Runtime::current(), which a RuntimeScope sets for the calling thread; runs
/// on different threads do not see each other.
class Runtime {
 public:
  Runtime(Trace& trace, const RuntimeOptions& options);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  /// Precondition: inside a RuntimeScope.
  [[nodiscard]] static Runtime& current();

  // -- trace -------------------------------------------------------------------------------------
  struct Allocation {
    std::uint32_t buffer{};
    std::uint32_t op_index{};
  };
  Allocation allocate(Bytes size, Category category);
  /// `reusable`: no other stream may still use it, so that its id may name the next buffer.
  void free(std::uint32_t buffer, StreamId stream, bool reusable);
  /// malloc and free of the process's own memory. From 128 KiB on (glibc maps nothing smaller).
  [[nodiscard]] std::uint32_t host_allocate(Bytes size);
  void host_free(std::uint32_t buffer);
  void record_stream(std::uint32_t buffer, StreamId stream);
  void set_category(std::uint32_t op_index, Category category);
  void mark(MarkKind kind, std::string_view what);
  void launch(const KernelCost& cost);
  void collective(const CollectiveCost& cost);
  /// The host is busy with `count` such pieces. Nothing without a cost model.
  void host_work(HostWork work, std::int64_t count = 1);
  std::uint32_t record_event(StreamId stream);
  void wait_event(StreamId stream, std::uint32_t event);
  void host_wait(std::uint32_t event);
  void synchronize();         ///< torch.cuda.synchronize()
  void synchronize_stream();  ///< the host waits for the current stream
  void wait_within_driver();  ///< as synchronize(), but the driver's pool learns nothing of it
  void empty_cache();         ///< torch.cuda.empty_cache()
  /// A new stream; `handle` orders it among the trace's streams, as a cudaStream_t would.
  StreamId make_stream();
  /// The process ends here: what is freed from now on (by destructors) is not part of the run.
  void end() { ended_ = true; }

  // -- modes (use the guards below) --------------------------------------------------------------
  bool grad_enabled{true};
  HostThread thread{HostThread::main};
  StreamId stream{};
  std::uint64_t next_sequence() { return sequence_++; }
  const char* op_name{""};  ///< label of what is allocated or freed now; a string literal

  /// torch.autocast. `cache` holds the weight copies until the outermost region ends.
  struct Autocast {
    bool enabled{};
    Dtype dtype{Dtype::bfloat16};
    bool cache_enabled{true};
    int nesting{};
    std::vector<std::pair<Ref<TensorImpl>, Tensor>> cache{};     ///< parameter -> copy
    std::unordered_map<const TensorImpl*, std::size_t> index{};  ///< into cache; never iterated
  } autocast{};

  /// A TorchDispatchMode is active (a FLOP counter, a log of operators): every tensor is taken for
  /// one that Python may watch (isTensorSubclassLike), and where PyTorch would change a tensor of
  /// its own in place it makes a new one.
  bool dispatch_mode{};

  /// DeepSpeed puts a function of its own in place of F.linear at stage 3: one that saves the
  /// parameter and not a view of it.
  bool memory_efficient_linear{};

  std::vector<Ref<SavedTensorHooks>> saved_tensor_hooks{};  ///< the innermost is last
  [[nodiscard]] Engine& engine() { return *engine_; }
  [[nodiscard]] const GpuTraits& gpu() const { return options_.gpu; }
  [[nodiscard]] const RuntimeOptions& options() const { return options_; }
  [[nodiscard]] OpGraph* graph() { return graph_.get(); }
  [[nodiscard]] std::unique_ptr<OpGraph> take_graph();

  /// Called by each GEMM after its output exists: the first on a (thread, stream) pair makes the
  /// cuBLAS workspace, and for the biased kind also cuBLASLt's; both stay for good.
  void use_cublas(bool lt);

  // -- what the driver and libraries take on first use, which moves what cudaMalloc returns. From
  // the driver's mmap calls and /proc/self/maps in PyTorch 2.11.0+cu130 on an H100 (2026-11).
  /// A kernel of ATen's or NCCL's own (not a copy, a concatenation or a random fill): 1792 bytes of
  /// local memory per thread, and 2 MiB.
  void use_kernels();
  /// A kernel that can fail an assertion: the device's malloc heap (8 MiB, cudaLimitMallocHeapSize)
  /// and the buffers of assert and printf, together 10 MiB.
  void use_device_heap();
  /// cuDNN maps its engines.
  void use_cudnn();
  /// cuDNN computes this attention. PyTorch keeps its plans by shape and thread
  /// (aten/src/ATen/native/cudnn/MHA.cpp): the first of them is built here.
  void use_attention_plan(const AttentionWork& work);

 private:
  std::uint32_t intern(const char* name);
  [[nodiscard]] std::uint32_t take_buffer();
  /// An op that is no allocation and has no label.
  void put(const Op& op);
  Trace& trace_;
  RuntimeOptions options_;
  std::vector<std::uint32_t> free_buffers_{};
  std::vector<std::uint32_t> free_events_{};
  std::vector<std::pair<const char*, std::uint32_t>> labels_{};  ///< by pointer; a few dozen
  std::uint32_t last_label_{};
  const char* last_name_{};
  std::uint64_t sequence_{};
  bool ended_{};
  std::vector<bool> loaded_{};  ///< by label: whether the operator's kernels are
  bool used_kernels_{};
  bool used_device_heap_{};
  bool used_cudnn_{};
  std::set<std::pair<HostThread, AttentionWork>> attention_plans_{};
  struct Workspace {
    HostThread thread{};
    StreamId stream{};
    bool lt{};
    Ref<Storage> storage{};
  };
  std::vector<Workspace> workspaces_{};
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<OpGraph> graph_{};
};

/// Makes `runtime` current on this thread until the end of the scope.
class RuntimeScope {
 public:
  explicit RuntimeScope(Runtime& runtime);
  ~RuntimeScope();
  RuntimeScope(const RuntimeScope&) = delete;
  RuntimeScope& operator=(const RuntimeScope&) = delete;

 private:
  Runtime* before_;
};

/// Sets a value until the end of the scope.
template <class T>
class Setting {
 public:
  Setting(T& place, T value) : place_{place}, before_{std::exchange(place, std::move(value))} {}
  ~Setting() { place_ = before_; }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  T& place_;
  T before_;
};

/// torch.no_grad() / torch.enable_grad().
class GradMode : Setting<bool> {
 public:
  explicit GradMode(bool enabled) : Setting{Runtime::current().grad_enabled, enabled} {}
};
/// with torch.cuda.stream(stream).
class StreamGuard : Setting<StreamId> {
 public:
  explicit StreamGuard(StreamId stream) : Setting{Runtime::current().stream, stream} {}
};
/// Names the operator that runs; nested operators name themselves.
class OpScope : Setting<const char*> {
 public:
  explicit OpScope(const char* name) : Setting{Runtime::current().op_name, name} {}
  /// Also a vertex of the op graph, with edges from these inputs and to what is allocated inside.
  OpScope(const char* name, std::initializer_list<const Tensor*> inputs);
  ~OpScope();

 private:
  std::uint32_t vertex_before_{};
  bool in_graph_{};
};

/// with torch.autocast("cuda", dtype, enabled). The weight copies die when the outermost region
/// ends.
class AutocastScope {
 public:
  AutocastScope(bool enabled, Dtype dtype);
  ~AutocastScope();
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

 private:
  bool enabled_before_;
  Dtype dtype_before_;
};
/// autocast's cast to its own type (a cached copy for fp32 parameters) or the tensor itself.
[[nodiscard]] Tensor autocast_lower(const Tensor& tensor);
/// autocast's cast of half types to fp32, for ops on the fp32 list.
[[nodiscard]] Tensor autocast_fp32(const Tensor& tensor);

}  // namespace peakcast::torch
