#include "cuda_check/driver_api.hpp"

namespace peakcast {
namespace {

/// The version whose signatures the headers declare for all the calls that are looked up.
constexpr unsigned int kApiVersion = 12000;

template <class Function>
void look_up(const char* name, Function& function) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult status{};
  cuda_check(
      cudaGetDriverEntryPointByVersion(name, &found, kApiVersion, cudaEnableDefault, &status),
      name);
  if (status != cudaDriverEntryPointSuccess || found == nullptr) {
    throw DriverError{std::string{"this driver has no "} + name};
  }
  function = reinterpret_cast<Function>(found);
}

}  // namespace

void cuda_check(cudaError_t result, const char* call) {
  if (result != cudaSuccess) {
    throw DriverError{std::string{call} + ": " + cudaGetErrorString(result)};
  }
}

DriverApi::DriverApi() {
  look_up("cuMemAddressReserve", mem_address_reserve);
  look_up("cuMemAddressFree", mem_address_free);
  look_up("cuMemCreate", mem_create);
  look_up("cuMemRelease", mem_release);
  look_up("cuMemMap", mem_map);
  look_up("cuMemUnmap", mem_unmap);
  look_up("cuMemSetAccess", mem_set_access);
  look_up("cuMemGetAllocationGranularity", mem_granularity);
  look_up("cuStreamWaitValue32", stream_wait_value);
  look_up("cuStreamWriteValue32", stream_write_value);
  look_up("cuGetErrorString", error_string);
}

const DriverApi& DriverApi::instance() {
  static const DriverApi api;
  return api;
}

void DriverApi::check(CUresult result, const char* call) const {
  if (result != CUDA_SUCCESS) {
    const char* words = nullptr;
    error_string(result, &words);
    throw DriverError{std::string{call} + ": " + (words != nullptr ? words : "unknown error")};
  }
}

std::optional<std::string> no_gpu_reason() {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  // The runtime says "insufficient" of a driver that is not there, too.
  if (result == cudaErrorInsufficientDriver) {
    int version = 0;
    if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0) {
      return std::string{"no NVIDIA driver is installed"};
    }
  }
  if (result != cudaSuccess && result != cudaErrorNoDevice) {
    return std::string{cudaGetErrorString(result)};
  }
  if (count == 0) {
    return std::string{"no CUDA device"};
  }
  return std::nullopt;
}

}  // namespace peakcast
