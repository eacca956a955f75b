#include "workloads/card_costs.hpp"

#include <algorithm>

#include "sim/core/check.hpp"
#include "sim/device/gpu_description.hpp"

namespace peakcast {

namespace {

/// Elements a second that kernels with index arithmetic reach, per multiprocessor. Measured
/// (h100-80g, 132 of them, profiles of training steps, 2026-11-26): products with a broadcast
/// operand 190 (bf16) to 290 (fp32), strided copies 280 and 210, strided sums 245, masked_fill 340
/// billion a second; 250 for all.
constexpr std::int64_t kIndexedElementsPerSecond = 250'000'000'000 / 132;

/// Without the launch itself, which is the card's and its driver's: 3.84 us on the measured one.
SimDuration host_time(torch::HostWork work, torch::HostThread thread) {
  switch (work) {
    case torch::HostWork::op:
      return SimDuration{thread == torch::HostThread::main ? 20'163 : 30'163};
    case torch::HostWork::native_op:
      return SimDuration{7'163};
    case torch::HostWork::kernel_load:
      // First iterations of 17 recorded runs alone on the card: 6 to 14 ms an operator in 13 of
      // them, median 9; more where files had to be read first.
      return SimDuration{10'000'000};
    case torch::HostWork::backward_call:
      // Beside the nodes: 0.1 ms of Python up to the gradient of the loss, 0.15 ms behind it.
      return SimDuration{250'000};
    case torch::HostWork::graph_node:
      // From the gradient of the loss to the first allocation of the backward pass, medians of 15
      // recorded runs of one process (traces, time_us): 0.6 to 1.3 ms for 741 to 2247 nodes, on a
      // line through 0.15 ms. From the last logits' free to the last loss's, while its graph goes:
      // 0.55 to 1.26 ms for 1301 and 1766 nodes (H100, 2026-11-28).
      return SimDuration{600};
    case torch::HostWork::attention_plan:
      // H100, PyTorch 2.11.0+cu130, cuDNN 9.19, 14 shapes of BERT, GPT-2 and Llama, 2026-11-28:
      // forward 46 to 87 ms, median 57, backward 53 to 87, median 60, whatever the shape; again:
      // cuda_check/measure_attention_plans.py.
      return SimDuration{58'000'000};
    case torch::HostWork::module_call:
      return SimDuration{35'000};
    case torch::HostWork::saved_hook:
      return SimDuration{thread == torch::HostThread::main ? 20'000 : 13'000};
    case torch::HostWork::parameter:
      // Medians of 15 recorded runs of BERT-large with 394 parameters: 12.3 to 19.6 us each from
      // the step's begin to its first square root, 2.7 to 4.1 while these are made, 3.4 to 5.4 from
      // there to the first free (traces, time_us, 2026-11). Two more waited: 44 and 105 us before.
      return SimDuration{15'000};
    case torch::HostWork::shard_view:
      return SimDuration{33'000};
    case torch::HostWork::shard_hook:
      return SimDuration{220'000};
  }
  check(false, "a kind of host work");
  return {};
}

}  // namespace

// Shares of the bandwidth that kinds of kernels reach. Measured on h100-80g in profiles of training
// steps of BERT, GPT-2, Llama, T5, ViT and Mixtral (PyTorch 2.11.0+cu130, 2026-11-26; again: the
// profiler's kernel times, grouped by operator and shape):
// - along rows two thirds: layer_norm of [8192, 1024] in fp32 31 us, its backward 87 us;
// - along columns half: gradients of biases, [8192, 1024 to 4096], 22 us in bf16, 43 us in fp32;
// - with conversions three quarters: fp32 from bf16 2.2 TB/s of 3.0.
SimDuration CardCosts::kernel(const torch::KernelCost& cost) const {
  const SimDuration more_floors = (cost.kernels - 1) * gpu_.rates.kernel_floor;
  switch (cost.kind) {
    case torch::KernelCost::Kind::matmul:
      return matmul_time(gpu_, cost.matmul);
    case torch::KernelCost::Kind::attention:
      return attention_time(gpu_, cost.attention);
    case torch::KernelCost::Kind::reduction:
      return streaming_time(gpu_, Bytes{cost.bytes / 2 * 3}) + more_floors;
    case torch::KernelCost::Kind::column_reduction:
      return streaming_time(gpu_, Bytes{2 * cost.bytes}) + more_floors;
    case torch::KernelCost::Kind::to_device:
      return host_copy_time(gpu_, HostCopy::to_device, Bytes{cost.bytes}) + more_floors;
    case torch::KernelCost::Kind::to_host:
      return host_copy_time(gpu_, HostCopy::to_host, Bytes{cost.bytes}) + more_floors;
    case torch::KernelCost::Kind::elementwise:
    case torch::KernelCost::Kind::copy: {
      const bool converting = cost.access == torch::KernelCost::Access::converting;
      const SimDuration moving =
          streaming_time(gpu_, Bytes{converting ? cost.bytes / 3 * 4 : cost.bytes}) + more_floors;
      return cost.access == torch::KernelCost::Access::indexed
                 ? std::max(moving, indexing_time(gpu_, cost.elements, kIndexedElementsPerSecond))
                 : moving;
    }
  }
  check(false, "a kind of kernel");
  return {};
}

SimDuration CardCosts::collective(const torch::CollectiveCost& cost) const {
  using Kind = torch::CollectiveCost::Kind;
  if (idle_links_) {
    return {};
  }
  const Collective kind = cost.kind == Kind::all_reduce       ? Collective::all_reduce
                          : cost.kind == Kind::all_gather     ? Collective::all_gather
                          : cost.kind == Kind::reduce_scatter ? Collective::reduce_scatter
                                                              : Collective::broadcast;
  return collective_time(gpu_, {.kind = kind, .bytes = Bytes{cost.bytes}, .ranks = cost.world});
}

SimDuration CardCosts::host(torch::HostWork work, torch::HostThread thread) const {
  const bool launches = work == torch::HostWork::op || work == torch::HostWork::native_op;
  return (host_time(work, thread) + (launches ? gpu_.driver_costs.kernel_launch : SimDuration{})) *
         100 / host_percent_;
}

}  // namespace peakcast
