#pragma once

#include <optional>
#include <stdexcept>
#include <string>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "sim/core/units.hpp"

namespace peakcast {

/// The driver did something that no policy and no full card explains (an illegal address, a lost
/// device). Thrown: Device has no such outcome, and nothing can go on after it.
class DriverError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws DriverError with the call's name and the runtime's words unless `result` is success.
void cuda_check(cudaError_t result, const char* call);

/// The calls that only the driver has, looked up at run time: a program that linked libcuda.so.1
/// would not even start on a machine without a driver, and could not say so with exit status 77.
class DriverApi {
 public:
  /// Null pointers in here do not exist: either all are found or DriverError is thrown.
  static const DriverApi& instance();
  /// Throws DriverError unless `result` is success.
  void check(CUresult result, const char* call) const;

  decltype(&cuMemAddressReserve) mem_address_reserve{};
  decltype(&cuMemAddressFree) mem_address_free{};
  decltype(&cuMemCreate) mem_create{};
  decltype(&cuMemRelease) mem_release{};
  decltype(&cuMemMap) mem_map{};
  decltype(&cuMemUnmap) mem_unmap{};
  decltype(&cuMemSetAccess) mem_set_access{};
  decltype(&cuMemGetAllocationGranularity) mem_granularity{};
  decltype(&cuStreamWaitValue32) stream_wait_value{};
  decltype(&cuStreamWriteValue32) stream_write_value{};
  decltype(&cuGetErrorString) error_string{};

 private:
  DriverApi();
};

/// Why there is no GPU to use, for a person to read; nullopt when there is one. Makes no context.
[[nodiscard]] std::optional<std::string> no_gpu_reason();

/// A device pointer as the simulator's value, and back.
[[nodiscard]] inline Address address_of(const void* pointer) {
  return Address{static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(pointer))};
}
[[nodiscard]] inline void* pointer_of(Address address) {
  return reinterpret_cast<void*>(  // NOLINT(performance-no-int-to-ptr): a device address
      static_cast<std::uintptr_t>(address.value()));
}

}  // namespace peakcast
