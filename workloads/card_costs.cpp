#include "workloads/card_costs.hpp"

#include "sim/core/check.hpp"

namespace peakcast {

SimDuration CardCosts::kernel(const torch::KernelCost& cost) const {
  // Kernels that reduce along rows or columns reach two thirds of the bandwidth. Measured
  // (h100-80g, profile of BERT-large, batch 16 x 512 with autocast): log_softmax of [8192, 30522]
  // in bf16 512 us, its backward 648 us, layer_norm of [8192, 1024] in fp32 31 us, its backward 87
  // us.
  switch (cost.kind) {
    case torch::KernelCost::Kind::matmul:
      return matmul_time(gpu_, cost.matmul);
    case torch::KernelCost::Kind::attention:
      return attention_time(gpu_, cost.attention);
    case torch::KernelCost::Kind::reduction:
      return streaming_time(gpu_, Bytes{cost.bytes / 2 * 3}) +
             (cost.kernels - 1) * gpu_.kernel_floor;
    case torch::KernelCost::Kind::elementwise:
    case torch::KernelCost::Kind::copy:
    case torch::KernelCost::Kind::host_copy:
      return streaming_time(gpu_, Bytes{cost.bytes}) + (cost.kernels - 1) * gpu_.kernel_floor;
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
  switch (work) {
    case torch::HostWork::op:
      return SimDuration{thread == torch::HostThread::main ? 20'000 : 28'000};
    case torch::HostWork::native_op:
      return SimDuration{9'000};
    case torch::HostWork::kernel_load:
      // First iterations of 17 recorded runs alone on the card: 6 to 14 ms an operator in 13 of
      // them, median 9; more where files had to be read first.
      return SimDuration{10'000'000};
    case torch::HostWork::module_call:
      return SimDuration{29'000};
    case torch::HostWork::parameter:
      return SimDuration{25'000};
    case torch::HostWork::shard_view:
      return SimDuration{28'000};
    case torch::HostWork::shard_hook:
      return SimDuration{250'000};
  }
  check(false, "a kind of host work");
  return {};
}

}  // namespace peakcast
