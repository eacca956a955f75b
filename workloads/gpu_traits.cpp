#include "workloads/gpu_traits.hpp"

#include "sim/device/gpu_description.hpp"

namespace peakcast {

GpuTraits traits_of(const GpuDescription& gpu) {
  return {.multiprocessors = gpu.multiprocessors,
          .threads_per_multiprocessor = gpu.threads_per_multiprocessor,
          .compute_capability = 10 * gpu.spec.compute_major + gpu.spec.compute_minor};
}

}  // namespace peakcast
