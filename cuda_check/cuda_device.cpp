#include "cuda_check/cuda_device.hpp"

#include <limits>

#include "cuda_check/driver_api.hpp"

namespace peakcast {
namespace {

CUmemAllocationProp device_memory(int ordinal) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = ordinal;
  return properties;
}

std::size_t to_size(Bytes size) { return static_cast<std::size_t>(size.count()); }

}  // namespace

CudaDevice::CudaDevice(CudaStreams& streams) : streams_{&streams} {
  cuda_check(cudaGetDevice(&ordinal_), "cudaGetDevice");
  cudaDeviceProp properties{};
  cuda_check(cudaGetDeviceProperties(&properties, ordinal_), "cudaGetDeviceProperties");
  const CUmemAllocationProp memory = device_memory(ordinal_);
  std::size_t granularity = 0;
  DriverApi::instance().check(DriverApi::instance().mem_granularity(
                                  &granularity, &memory, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
                              "cuMemGetAllocationGranularity");
  spec_ = DeviceSpec{.name = properties.name,
                     .total = Bytes{static_cast<std::int64_t>(properties.totalGlobalMem)},
                     .granularity = Bytes{static_cast<std::int64_t>(granularity)},
                     .compute_major = properties.major,
                     .compute_minor = properties.minor};
}

std::optional<Address> CudaDevice::acquire(Bytes size) {
  ++counts_.acquire;
  const Stopwatch watch{*this};
  void* pointer = nullptr;
  const cudaError_t result = cudaMalloc(&pointer, to_size(size));
  if (result == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    return std::nullopt;
  }
  cuda_check(result, "cudaMalloc");
  return address_of(pointer);
}

void CudaDevice::release(Address address) {
  ++counts_.release;
  const Stopwatch watch{*this};
  cuda_check(cudaFree(pointer_of(address)), "cudaFree");
}

std::optional<Address> CudaDevice::reserve(Bytes size) {
  ++counts_.reserve;
  const Stopwatch watch{*this};
  const DriverApi& api = DriverApi::instance();
  CUdeviceptr address = 0;
  const CUresult result = api.mem_address_reserve(&address, to_size(size), 0, 0, 0);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    return std::nullopt;
  }
  api.check(result, "cuMemAddressReserve");
  return Address{address};
}

void CudaDevice::unreserve(Address address, Bytes size) {
  ++counts_.unreserve;
  const Stopwatch watch{*this};
  const DriverApi& api = DriverApi::instance();
  api.check(api.mem_address_free(address.value(), to_size(size)), "cuMemAddressFree");
}

std::optional<PhysicalId> CudaDevice::create(Bytes size) {
  ++counts_.create;
  const Stopwatch watch{*this};
  const DriverApi& api = DriverApi::instance();
  const CUmemAllocationProp memory = device_memory(ordinal_);
  CUmemGenericAllocationHandle handle{};
  const CUresult result = api.mem_create(&handle, to_size(size), &memory, 0);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    return std::nullopt;
  }
  api.check(result, "cuMemCreate");
  const Physical physical{handle, size};
  if (destroyed_.empty()) {
    physical_.push_back(physical);
    return PhysicalId{static_cast<std::uint32_t>(physical_.size() - 1)};
  }
  const std::uint32_t id = destroyed_.back();
  destroyed_.pop_back();
  physical_[id] = physical;
  return PhysicalId{id};
}

void CudaDevice::destroy(PhysicalId physical) {
  ++counts_.destroy;
  const Stopwatch watch{*this};
  const DriverApi& api = DriverApi::instance();
  api.check(api.mem_release(physical_.at(physical.value).handle), "cuMemRelease");
  destroyed_.push_back(physical.value);
}

Bytes CudaDevice::map_only(Address address, PhysicalId physical) {
  ++counts_.map;
  const DriverApi& api = DriverApi::instance();
  const Physical& memory = physical_.at(physical.value);
  api.check(api.mem_map(address.value(), to_size(memory.size), 0, memory.handle, 0), "cuMemMap");
  return memory.size;
}

void CudaDevice::give_access(Address address, Bytes size) {
  const DriverApi& api = DriverApi::instance();
  CUmemAccessDesc access{};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = ordinal_;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  api.check(api.mem_set_access(address.value(), to_size(size), &access, 1), "cuMemSetAccess");
}

void CudaDevice::map(Address address, PhysicalId physical) {
  const Stopwatch watch{*this};
  give_access(address, map_only(address, physical));
}

void CudaDevice::map_run(Address address, std::span<const PhysicalId> physical) {
  const Stopwatch watch{*this};
  Bytes size{};
  for (const PhysicalId part : physical) {
    size += map_only(address + size, part);
  }
  give_access(address, size);
}

void CudaDevice::unmap(Address address, Bytes size) {
  ++counts_.unmap;
  const Stopwatch watch{*this};
  // cuMemUnmap does not promise to wait for kernels that still use the range.
  cuda_check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  const DriverApi& api = DriverApi::instance();
  api.check(api.mem_unmap(address.value(), to_size(size)), "cuMemUnmap");
}

cudaMemPool_t CudaDevice::pool() const {
  if (pool_ == nullptr) {
    cuda_check(cudaDeviceGetDefaultMemPool(&pool_, ordinal_), "cudaDeviceGetDefaultMemPool");
    std::uint64_t threshold = std::numeric_limits<std::uint64_t>::max();
    cuda_check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &threshold),
               "cudaMemPoolSetAttribute");
  }
  return pool_;
}

std::optional<Address> CudaDevice::pool_allocate(Bytes size, StreamId stream) {
  ++counts_.pool_allocate;
  const Stopwatch watch{*this};
  void* pointer = nullptr;
  const cudaError_t result =
      cudaMallocFromPoolAsync(&pointer, to_size(size), pool(), streams_->handle(stream));
  if (result == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    return std::nullopt;
  }
  cuda_check(result, "cudaMallocAsync");
  return address_of(pointer);
}

void CudaDevice::pool_free(Address address, StreamId stream) {
  ++counts_.pool_free;
  const Stopwatch watch{*this};
  cuda_check(cudaFreeAsync(pointer_of(address), streams_->handle(stream)), "cudaFreeAsync");
}

void CudaDevice::pool_trim(Bytes keep) {
  const Stopwatch watch{*this};
  cuda_check(cudaMemPoolTrimTo(pool(), to_size(keep)), "cudaMemPoolTrimTo");
}

Bytes CudaDevice::pool_reserved() const {
  std::uint64_t reserved = 0;
  cuda_check(cudaMemPoolGetAttribute(pool(), cudaMemPoolAttrReservedMemCurrent, &reserved),
             "cudaMemPoolGetAttribute");
  return Bytes{static_cast<std::int64_t>(reserved)};
}

Bytes CudaDevice::free_memory() const {
  std::size_t free = 0;
  std::size_t total = 0;
  cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return Bytes{static_cast<std::int64_t>(free)};
}

Ballast::Ballast(Bytes leave) {
  const DriverApi& api = DriverApi::instance();
  int ordinal = 0;
  cuda_check(cudaGetDevice(&ordinal), "cudaGetDevice");
  const CUmemAllocationProp memory = device_memory(ordinal);
  std::size_t page = 0;
  api.check(api.mem_granularity(&page, &memory, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
            "cuMemGetAllocationGranularity");
  for (std::size_t step = std::size_t{1} << 30;; step = page) {
    for (;;) {
      std::size_t free = 0;
      std::size_t total = 0;
      cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
      if (free < to_size(leave)) {
        throw DriverError{"less memory is free than the capacity that was asked for"};
      }
      if (free - to_size(leave) < step) {
        break;
      }
      CUmemGenericAllocationHandle handle{};
      api.check(api.mem_create(&handle, step, &memory, 0), "cuMemCreate");
      handles_.push_back(handle);
    }
    if (step == page) {
      return;
    }
  }
}

Ballast::~Ballast() {
  for (const CUmemGenericAllocationHandle handle : handles_) {
    static_cast<void>(DriverApi::instance().mem_release(handle));
  }
}

}  // namespace peakcast
