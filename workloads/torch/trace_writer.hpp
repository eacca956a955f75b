#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "sim/core/slots.hpp"
#include "sim/trace/trace.hpp"
#include "workloads/torch/costs.hpp"

namespace peakcast::torch {

class OpGraph;

/// The trace under construction: what a program does to memory, streams and the host, op by op, and
/// the op graph where one is asked for. Times come from a CostModel; without one, no launch is
/// written and no host work.
class TraceWriter {
 public:
  /// `trace` and `cost_model` (which may be null) outlive this.
  TraceWriter(Trace& trace, const CostModel* cost_model, bool record_graph);
  ~TraceWriter();
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  /// Where and by whom work is issued now.
  StreamId stream{};
  HostThread thread{HostThread::main};
  const char* op_name{""};  ///< label of what is allocated or freed now; a string literal

  struct Allocation {
    std::uint32_t buffer{};
    std::uint32_t op_index{};
  };
  Allocation allocate(Bytes size, Category category);
  /// `reusable`: no other stream may still use it, so that its id may name the next buffer.
  void free(std::uint32_t buffer, StreamId on, bool reusable);
  /// malloc and free of the process's own memory. From 128 KiB on (glibc maps nothing smaller).
  [[nodiscard]] std::uint32_t host_allocate(Bytes size);
  void host_free(std::uint32_t buffer);
  /// What the driver takes for itself; `local`: a kernel's local memory, per thread.
  void driver_memory(Bytes size);
  void local_memory(Bytes size);
  void record_stream(std::uint32_t buffer, StreamId on);
  void set_category(std::uint32_t op_index, Category category);
  void mark(MarkKind kind, std::string_view what);
  /// The kernel itself, behind what the host does the first time that this operator runs.
  void write_launch(const KernelCost& cost);
  void write_collective(const CollectiveCost& cost);
  /// The host is busy with `count` such pieces.
  void host_work(HostWork work, std::int64_t count = 1);
  std::uint32_t record_event(StreamId on);
  void wait_event(StreamId on, std::uint32_t event);
  void host_wait(std::uint32_t event);
  void synchronize();         ///< torch.cuda.synchronize()
  void synchronize_stream();  ///< the host waits for the current stream
  void wait_within_driver();  ///< as synchronize(), but the driver's pool learns nothing of it
  void empty_cache();         ///< torch.cuda.empty_cache()
  /// A new stream; `handle` orders it among the trace's streams, as a cudaStream_t would.
  StreamId make_stream();
  /// The process ends here: what is freed from now on (by destructors) is not part of the run.
  void end() { ended_ = true; }

  [[nodiscard]] OpGraph* graph() { return graph_.get(); }
  [[nodiscard]] std::unique_ptr<OpGraph> take_graph();

 private:
  std::uint32_t intern(const char* name);
  [[nodiscard]] std::uint32_t take_buffer();
  /// An op that is no allocation, without a label unless given.
  void put(const Op& op, std::uint32_t label = 0);

  Trace& trace_;
  const CostModel* cost_model_;
  Numbers buffers_{};
  std::vector<std::pair<const char*, std::uint32_t>> labels_{};  ///< by pointer; a few dozen
  std::uint32_t last_label_{};
  const char* last_name_{};
  std::vector<bool> loaded_{};  ///< by label: whether the operator's kernels are
  std::unique_ptr<OpGraph> graph_{};
  bool ended_{};
};

}  // namespace peakcast::torch
