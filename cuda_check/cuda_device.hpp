#pragma once

#include <chrono>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "cuda_check/cuda_streams.hpp"
#include "sim/device/device.hpp"

namespace peakcast {

/// The real driver behind Device, on the current CUDA device. Addresses are device pointers.
/// What the driver refuses for want of memory is an outcome; any other failure throws DriverError.
/// Borrows `streams` (whose ids the pool calls use), which outlives it. What is still held when it
/// is destroyed goes back to the driver with the process, as with any program.
class CudaDevice final : public Device {
 public:
  explicit CudaDevice(CudaStreams& streams);

  [[nodiscard]] const DeviceSpec& spec() const override { return spec_; }
  [[nodiscard]] std::optional<Address> acquire(Bytes size) override;
  void release(Address address) override;
  [[nodiscard]] std::optional<Address> reserve(Bytes size) override;
  void unreserve(Address address, Bytes size) override;
  [[nodiscard]] std::optional<PhysicalId> create(Bytes size) override;
  void destroy(PhysicalId physical) override;
  void map(Address address, PhysicalId physical) override;
  void map_run(Address address, std::span<const PhysicalId> physical) override;
  void unmap(Address address, Bytes size) override;
  [[nodiscard]] std::optional<Address> pool_allocate(Bytes size, StreamId stream) override;
  void pool_free(Address address, StreamId stream) override;
  void pool_trim(Bytes keep) override;
  [[nodiscard]] Bytes pool_reserved() const override;
  [[nodiscard]] Bytes free_memory() const override;
  [[nodiscard]] SimDuration host_time() const override { return host_time_; }
  [[nodiscard]] const DeviceCounts& counts() const override { return counts_; }

 private:
  /// Adds the time until it is destroyed to host_time_.
  class Stopwatch {
   public:
    explicit Stopwatch(CudaDevice& device)
        : device_{&device}, start_{std::chrono::steady_clock::now()} {}
    ~Stopwatch() {
      device_->host_time_ +=
          std::chrono::duration_cast<SimDuration>(std::chrono::steady_clock::now() - start_);
    }
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;

   private:
    CudaDevice* device_;
    std::chrono::steady_clock::time_point start_;
  };
  struct Physical {
    CUmemGenericAllocationHandle handle{};
    Bytes size{};
  };
  /// cuMemMap alone; the mapping's size.
  Bytes map_only(Address address, PhysicalId physical);
  void give_access(Address address, Bytes size);
  /// The pool is made ready by its first use, so that a policy that does not use it pays nothing.
  [[nodiscard]] cudaMemPool_t pool() const;

  CudaStreams* streams_;
  int ordinal_{};
  DeviceSpec spec_{};
  mutable cudaMemPool_t pool_{};
  std::vector<Physical> physical_{};  ///< by PhysicalId
  std::vector<std::uint32_t> destroyed_{};
  SimDuration host_time_{};
  DeviceCounts counts_{};
};

/// Takes device memory out of the way until at most `leave` is free, in whole pages: what a smaller
/// card, or one that others use too, would have. Gives it back when destroyed.
class Ballast {
 public:
  Ballast() = default;
  /// Throws DriverError when less than `leave` is free to begin with.
  explicit Ballast(Bytes leave);
  ~Ballast();
  Ballast(const Ballast&) = delete;
  Ballast& operator=(const Ballast&) = delete;

 private:
  std::vector<CUmemGenericAllocationHandle> handles_{};
};

}  // namespace peakcast
