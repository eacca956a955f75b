#include <algorithm>
#include <array>
#include <chrono>
#include <cublas_v2.h>
#include <dlfcn.h>
#include <vector>

#include "cuda_check/driver_api.hpp"
#include "cuda_check/measure_card.hpp"

namespace peakcast {
namespace {

using namespace literals;
using Clock = std::chrono::steady_clock;

constexpr int kRepeats = 15;

Bytes free_bytes() {
  std::size_t free = 0;
  std::size_t total = 0;
  cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return Bytes{static_cast<std::int64_t>(free)};
}

std::size_t to_size(Bytes size) { return static_cast<std::size_t>(size.count()); }

/// The middle of several timings of one call.
class Timings {
 public:
  template <class Call>
  void time(Call&& call) {
    const auto start = Clock::now();
    call();
    times_.push_back(std::chrono::duration_cast<SimDuration>(Clock::now() - start));
  }
  [[nodiscard]] SimDuration median() {
    std::sort(times_.begin(), times_.end());
    return times_.at(times_.size() / 2);
  }

 private:
  std::vector<SimDuration> times_{};
};

__global__ void do_nothing() {}

/// Not a pattern that a compressor or a cache could profit from.
__global__ void fill_with_noise(std::uint16_t* values, std::uint64_t count) {
  const std::uint64_t stride = std::uint64_t{gridDim.x} * blockDim.x;
  for (std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    const std::uint64_t mixed = (i + 1) * 0x9E3779B97F4A7C15ULL;
    // Sign, a few exponent bits near 1.0 and random mantissa: finite in fp16, bf16 and as half of
    // an fp32 word.
    values[i] = static_cast<std::uint16_t>(0x3c00U | ((mixed >> 40) & 0x80ffU));
  }
}

PageUse measure_page_use(Bytes request) {
  constexpr int kRequests = 8;
  PageUse use{.request = request};
  const Bytes before = free_bytes();
  std::vector<void*> pointers;
  for (int i = 0; i < kRequests; ++i) {
    void* pointer = nullptr;
    cuda_check(cudaMalloc(&pointer, to_size(request)), "cudaMalloc");
    pointers.push_back(pointer);
    use.taken_after.push_back(before - free_bytes());
    use.addresses.push_back(address_of(pointer));
  }
  for (void* pointer : pointers) {
    cuda_check(cudaFree(pointer), "cudaFree");
  }
  return use;
}

void measure_cuda_malloc(CardDescription& card) {
  for (const Bytes size : {2_MiB, 20_MiB, 64_MiB, 256_MiB, 1_GiB, 4_GiB, 16_GiB}) {
    if (size > free_bytes()) {
      break;
    }
    Timings acquire;
    Timings release;
    for (int i = 0; i < kRepeats; ++i) {
      void* pointer = nullptr;
      acquire.time([&] { cuda_check(cudaMalloc(&pointer, to_size(size)), "cudaMalloc"); });
      release.time([&] { cuda_check(cudaFree(pointer), "cudaFree"); });
    }
    card.driver_costs.acquire.push_back({size, acquire.median()});
    card.driver_costs.release.push_back({size, release.median()});
  }
}

void measure_virtual_memory(CardDescription& card, int ordinal) {
  const DriverApi& api = DriverApi::instance();
  CUmemAllocationProp memory{};
  memory.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  memory.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  memory.location.id = ordinal;
  CUmemAccessDesc access{};
  access.location = memory.location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  CUdeviceptr range = 0;
  const std::size_t range_size = to_size(64_GiB);
  api.check(api.mem_address_reserve(&range, range_size, 0, 0, 0), "cuMemAddressReserve");
  for (const Bytes size : {2_MiB, 20_MiB, 64_MiB, 256_MiB, 1_GiB, 4_GiB}) {
    if (size > free_bytes()) {
      break;
    }
    Timings create, map, set_access, unmap, destroy;
    for (int i = 0; i < kRepeats; ++i) {
      CUmemGenericAllocationHandle handle{};
      create.time(
          [&] { api.check(api.mem_create(&handle, to_size(size), &memory, 0), "cuMemCreate"); });
      map.time([&] { api.check(api.mem_map(range, to_size(size), 0, handle, 0), "cuMemMap"); });
      set_access.time([&] {
        api.check(api.mem_set_access(range, to_size(size), &access, 1), "cuMemSetAccess");
      });
      unmap.time([&] { api.check(api.mem_unmap(range, to_size(size)), "cuMemUnmap"); });
      destroy.time([&] { api.check(api.mem_release(handle), "cuMemRelease"); });
    }
    card.driver_costs.create.push_back({size, create.median()});
    card.driver_costs.map.push_back({size, map.median()});
    card.driver_costs.set_access.push_back({size, set_access.median()});
    card.driver_costs.unmap.push_back({size, unmap.median()});
    card.driver_costs.destroy.push_back({size, destroy.median()});
  }
  api.check(api.mem_address_free(range, range_size), "cuMemAddressFree");
}

/// What each further mapping in one cuMemSetAccess's range costs: a range of many pages, each an
/// allocation of its own, against one of a single page.
SimDuration measure_access_of_many(int ordinal) {
  constexpr std::int64_t kMappings = 64;
  const DriverApi& api = DriverApi::instance();
  CUmemAllocationProp memory{};
  memory.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  memory.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  memory.location.id = ordinal;
  CUmemAccessDesc access{};
  access.location = memory.location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  const std::size_t page = to_size(2_MiB);
  CUdeviceptr range = 0;
  api.check(api.mem_address_reserve(&range, page * kMappings, 0, 0, 0), "cuMemAddressReserve");
  std::vector<CUmemGenericAllocationHandle> handles(kMappings);
  for (CUmemGenericAllocationHandle& handle : handles) {
    api.check(api.mem_create(&handle, page, &memory, 0), "cuMemCreate");
  }
  const auto median_for = [&](std::size_t mappings) {
    Timings timings;
    for (int i = 0; i < kRepeats; ++i) {
      for (std::size_t m = 0; m < mappings; ++m) {
        api.check(api.mem_map(range + m * page, page, 0, handles[m], 0), "cuMemMap");
      }
      timings.time([&] {
        api.check(api.mem_set_access(range, mappings * page, &access, 1), "cuMemSetAccess");
      });
      api.check(api.mem_unmap(range, mappings * page), "cuMemUnmap");
    }
    return timings.median();
  };
  const SimDuration per_mapping = (median_for(kMappings) - median_for(1)) / (kMappings - 1);
  for (const CUmemGenericAllocationHandle handle : handles) {
    api.check(api.mem_release(handle), "cuMemRelease");
  }
  api.check(api.mem_address_free(range, page * kMappings), "cuMemAddressFree");
  return per_mapping;
}

void measure_pool(CardDescription& card, int ordinal) {
  cudaMemPool_t pool{};
  cuda_check(cudaDeviceGetDefaultMemPool(&pool, ordinal), "cudaDeviceGetDefaultMemPool");
  cudaStream_t stream{};
  cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  const auto round_trip = [&](Bytes size, Timings& allocate, Timings& free) {
    for (int i = 0; i < kRepeats; ++i) {
      void* pointer = nullptr;
      allocate.time(
          [&] { cuda_check(cudaMallocAsync(&pointer, to_size(size), stream), "cudaMallocAsync"); });
      free.time([&] { cuda_check(cudaFreeAsync(pointer, stream), "cudaFreeAsync"); });
      cuda_check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    }
  };
  // With a threshold of zero every allocation takes its memory from the device again.
  std::uint64_t threshold = 0;
  cuda_check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold),
             "cudaMemPoolSetAttribute");
  for (const Bytes size : {1_MiB, 2_MiB, 20_MiB, 256_MiB, 4_GiB}) {
    if (size > free_bytes()) {
      break;
    }
    Timings grow;
    Timings free;
    round_trip(size, grow, free);
    card.driver_costs.pool_grow.push_back({size, grow.median()});
  }
  threshold = ~std::uint64_t{0};
  cuda_check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold),
             "cudaMemPoolSetAttribute");
  Timings hit;
  Timings free;
  round_trip(20_MiB, hit, free);
  card.driver_costs.pool_hit = hit.median();
  card.driver_costs.pool_free = free.median();
  cuda_check(cudaMemPoolTrimTo(pool, 0), "cudaMemPoolTrimTo");
  cuda_check(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

void measure_streams(CardDescription& card) {
  constexpr int kCalls = 200;
  cudaStream_t stream{};
  cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  cudaEvent_t event{};
  cuda_check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  do_nothing<<<1, 1, 0, stream>>>();
  cuda_check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  Timings record, query, launch, turnaround;
  for (int i = 0; i < kCalls; ++i) {
    launch.time([&] { do_nothing<<<1, 1, 0, stream>>>(); });
    record.time([&] { cuda_check(cudaEventRecord(event, stream), "cudaEventRecord"); });
    cuda_check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    query.time([&] { cuda_check(cudaEventQuery(event), "cudaEventQuery"); });
    turnaround.time([&] {
      do_nothing<<<1, 1, 0, stream>>>();
      cuda_check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    });
  }
  card.event_record = record.median();
  card.event_query = query.median();
  card.driver_costs.kernel_launch = launch.median();
  card.kernel_turnaround = turnaround.median();
  cuda_check(cudaEventDestroy(event), "cudaEventDestroy");
  cuda_check(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

/// Device time of `work`, by events; the best of several, since anything else on the machine only
/// adds to it.
template <class Work>
double best_seconds(Work&& work) {
  cudaEvent_t begin{};
  cudaEvent_t end{};
  cuda_check(cudaEventCreate(&begin), "cudaEventCreate");
  cuda_check(cudaEventCreate(&end), "cudaEventCreate");
  float best = 0.0F;
  for (int i = 0; i < kRepeats; ++i) {
    cuda_check(cudaEventRecord(begin), "cudaEventRecord");
    work();
    cuda_check(cudaEventRecord(end), "cudaEventRecord");
    cuda_check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float milliseconds = 0.0F;
    cuda_check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    if (i == 0 || milliseconds < best) {
      best = milliseconds;
    }
  }
  cuda_check(cudaEventDestroy(begin), "cudaEventDestroy");
  cuda_check(cudaEventDestroy(end), "cudaEventDestroy");
  return static_cast<double>(best) / 1000.0;
}

std::int64_t per_second(double amount, double seconds) {
  return static_cast<std::int64_t>(amount / seconds);
}

void measure_transfers(CardDescription& card) {
  const Bytes size = 1_GiB;
  void* host = nullptr;
  void* from = nullptr;
  void* to = nullptr;
  cuda_check(cudaMallocHost(&host, to_size(size)), "cudaMallocHost");
  cuda_check(cudaMalloc(&from, to_size(size)), "cudaMalloc");
  cuda_check(cudaMalloc(&to, to_size(size)), "cudaMalloc");
  fill_with_noise<<<1024, 256>>>(static_cast<std::uint16_t*>(from), to_size(size) / 2);
  const auto copy = [&](void* target, const void* source, cudaMemcpyKind kind) {
    return best_seconds([&] {
      cuda_check(cudaMemcpyAsync(target, source, to_size(size), kind, nullptr), "cudaMemcpyAsync");
    });
  };
  const auto bytes = static_cast<double>(size.count());
  card.device_to_host_bytes_per_second =
      per_second(bytes, copy(host, from, cudaMemcpyDeviceToHost));
  card.host_to_device_bytes_per_second =
      per_second(bytes, copy(from, host, cudaMemcpyHostToDevice));
  card.device_bytes_per_second = per_second(2.0 * bytes, copy(to, from, cudaMemcpyDeviceToDevice));
  cuda_check(cudaFree(to), "cudaFree");
  cuda_check(cudaFree(from), "cudaFree");
  cuda_check(cudaFreeHost(host), "cudaFreeHost");
}

/// cuBLAS, if the machine has it: looked up at run time, because it is half a gigabyte and only
/// this one measurement needs it.
class Cublas {
 public:
  Cublas() {
    for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"}) {
      library_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
      if (library_ != nullptr) {
        break;
      }
    }
    if (library_ == nullptr) {
      return;
    }
    create_ = reinterpret_cast<decltype(create_)>(dlsym(library_, "cublasCreate_v2"));
    gemm_ = reinterpret_cast<decltype(gemm_)>(dlsym(library_, "cublasGemmEx"));
    if (create_ == nullptr || gemm_ == nullptr || create_(&handle_) != CUBLAS_STATUS_SUCCESS) {
      handle_ = nullptr;
    }
  }
  ~Cublas() {
    if (handle_ != nullptr) {
      const auto destroy =
          reinterpret_cast<decltype(&cublasDestroy_v2)>(dlsym(library_, "cublasDestroy_v2"));
      if (destroy != nullptr) {
        static_cast<void>(destroy(handle_));
      }
    }
    // The library stays loaded: unloading it would take its modules out of a live context.
  }
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  /// Of square products with `side`; a, b and c hold side * side values of `type`.
  [[nodiscard]] std::optional<std::int64_t> flops_per_second(cudaDataType_t type,
                                                             cublasComputeType_t compute, int side,
                                                             const void* a, const void* b,
                                                             void* c) const {
    if (handle_ == nullptr) {
      return std::nullopt;
    }
    const float one = 1.0F;
    const float zero = 0.0F;
    bool good = true;
    const double seconds = best_seconds([&] {
      good = good && gemm_(handle_, CUBLAS_OP_N, CUBLAS_OP_N, side, side, side, &one, a, type, side,
                           b, type, side, &zero, c, type, side, compute,
                           CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS;
    });
    if (!good) {
      return std::nullopt;
    }
    const auto n = static_cast<double>(side);
    return per_second(2.0 * n * n * n, seconds);
  }

 private:
  // Named, because the header overloads the function.
  using GemmEx = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int,
                                    int, const void*, const void*, cudaDataType_t, int, const void*,
                                    cudaDataType_t, int, const void*, void*, cudaDataType_t, int,
                                    cublasComputeType_t, cublasGemmAlgo_t);
  void* library_{};
  decltype(&cublasCreate_v2) create_{};
  GemmEx gemm_{};
  cublasHandle_t handle_{};
};

void measure_products(CardDescription& card) {
  constexpr int kSide = 8192;
  const Cublas cublas;
  const std::size_t size = std::size_t{kSide} * kSide * sizeof(float);
  std::array<void*, 3> matrices{};
  for (void*& matrix : matrices) {
    cuda_check(cudaMalloc(&matrix, size), "cudaMalloc");
    fill_with_noise<<<1024, 256>>>(static_cast<std::uint16_t*>(matrix), size / 2);
  }
  const auto rate = [&](cudaDataType_t type, cublasComputeType_t compute) {
    return cublas.flops_per_second(type, compute, kSide, matrices[0], matrices[1], matrices[2]);
  };
  card.fp32_flops_per_second = rate(CUDA_R_32F, CUBLAS_COMPUTE_32F);
  card.tf32_flops_per_second = rate(CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32);
  card.bf16_flops_per_second = rate(CUDA_R_16BF, CUBLAS_COMPUTE_32F);
  card.fp16_flops_per_second = rate(CUDA_R_16F, CUBLAS_COMPUTE_32F);
  for (void* matrix : matrices) {
    cuda_check(cudaFree(matrix), "cudaFree");
  }
}

/// What stays free when not even one page can be had any more.
Bytes fill_card(Bytes page) {
  std::vector<void*> pointers;
  for (const Bytes step : {1_GiB, 64_MiB, page}) {
    for (;;) {
      void* pointer = nullptr;
      const cudaError_t result = cudaMalloc(&pointer, to_size(step));
      if (result == cudaErrorMemoryAllocation) {
        static_cast<void>(cudaGetLastError());
        break;
      }
      cuda_check(result, "cudaMalloc");
      pointers.push_back(pointer);
    }
  }
  const Bytes left = free_bytes();
  for (void* pointer : pointers) {
    cuda_check(cudaFree(pointer), "cudaFree");
  }
  return left;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

CardDescription measure_card() {
  CardDescription card;
  const auto start = Clock::now();
  cuda_check(cudaFree(nullptr), "cudaFree");
  card.context_creation = std::chrono::duration_cast<SimDuration>(Clock::now() - start);

  int ordinal = 0;
  cuda_check(cudaGetDevice(&ordinal), "cudaGetDevice");
  cudaDeviceProp properties{};
  cuda_check(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
  const Bytes total{static_cast<std::int64_t>(properties.totalGlobalMem)};
  card.context = total - free_bytes();

  CUmemAllocationProp memory{};
  memory.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  memory.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  memory.location.id = ordinal;
  std::size_t granularity = 0;
  DriverApi::instance().check(DriverApi::instance().mem_granularity(
                                  &granularity, &memory, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
                              "cuMemGetAllocationGranularity");
  card.spec = DeviceSpec{.name = properties.name,
                         .total = total,
                         .granularity = Bytes{static_cast<std::int64_t>(granularity)},
                         .compute_major = properties.major,
                         .compute_minor = properties.minor};
  card.multiprocessors = properties.multiProcessorCount;
  card.threads_per_multiprocessor = properties.maxThreadsPerMultiProcessor;
  card.l2_cache = Bytes{properties.l2CacheSize};
  int version = 0;
  cuda_check(cudaDriverGetVersion(&version), "cudaDriverGetVersion");
  card.driver = version_text(version);
  cuda_check(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
  card.runtime = version_text(version);

  for (const Bytes request : {1_B, 512_B, 4_KiB, 64_KiB, 512_KiB, 1_MiB, 1_MiB + 1_B, 2_MiB,
                              2_MiB + 1_B, 3_MiB, 20_MiB, 20_MiB + 1_B}) {
    card.page_use.push_back(measure_page_use(request));
  }
  card.shared_page_limit = shared_page_limit(card.page_use, card.spec.granularity);
  measure_cuda_malloc(card);
  measure_virtual_memory(card, ordinal);
  card.driver_costs.set_access_mapping = measure_access_of_many(ordinal);
  measure_pool(card, ordinal);
  measure_streams(card);
  measure_transfers(card);
  card.unusable = fill_card(card.spec.granularity);
  measure_products(card);  // last: cuBLAS keeps memory of its own
  return card;
}

}  // namespace peakcast
