#include "workloads/parallel/data_parallel.hpp"

#include <algorithm>

#include "workloads/parallel/ddp.hpp"
#include "workloads/parallel/fsdp1.hpp"
#include "workloads/parallel/fsdp2.hpp"
#include "workloads/parallel/zero.hpp"

namespace peakcast::torch {

Chunk chunk_of(std::int64_t elements, std::int64_t ranks, std::int64_t rank) {
  const std::int64_t padded = (elements + ranks - 1) / ranks;
  const std::int64_t begin = std::min(elements, padded * rank);
  return {.begin = begin, .length = std::min(elements, begin + padded) - begin, .padded = padded};
}

void wait_stream(StreamId stream, StreamId other) {
  Runtime& runtime = Runtime::current();
  runtime.wait_event(stream, runtime.record_event(other));
}

std::unique_ptr<DataParallel> make_data_parallel(const RunSpec& spec, Module& model) {
  Libraries& libraries = Runtime::current().libraries;
  switch (spec.parallel) {
    case Parallel::none:
      return nullptr;
    case Parallel::ddp:
      libraries.use_wrapper(OutsideWhen::ddp);
      return make_ddp(spec, model);
    case Parallel::fsdp1:
      libraries.use_wrapper(OutsideWhen::sharding);
      return make_fsdp1(spec, model);
    case Parallel::fsdp2:
      libraries.use_wrapper(OutsideWhen::sharding);
      return make_fsdp2(spec, model);
    case Parallel::zero1:
    case Parallel::zero2:
      libraries.use_wrapper(OutsideWhen::zero_1_2);
      return make_zero(spec, model);
    case Parallel::zero3:
      libraries.use_wrapper(OutsideWhen::zero_3);
      return make_zero(spec, model);
  }
  return nullptr;
}

}  // namespace peakcast::torch
