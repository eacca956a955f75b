#include "cuda_check/pluggable_allocator.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "allocators/registry.hpp"
#include "cuda_check/cuda_device.hpp"
#include "cuda_check/cuda_streams.hpp"
#include "cuda_check/driver_api.hpp"
#include "cuda_check/policy_front.hpp"
#include "sim/device/streams.hpp"

namespace peakcast {
namespace {

/// Makes `ordinal` the current device while it lives; the framework expects its own back.
class DeviceGuard {
 public:
  explicit DeviceGuard(int ordinal) {
    cuda_check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != ordinal) {
      cuda_check(cudaSetDevice(ordinal), "cudaSetDevice");
      changed_ = true;
    }
  }
  ~DeviceGuard() {
    if (changed_) {
      static_cast<void>(cudaSetDevice(before_));
    }
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_{};
  bool changed_{};
};

struct Configuration {
  std::string policy{"pytorch"};
  PolicyOptions options{};
};

/// One card's policy with all that it borrows.
class DevicePolicy {
 public:
  explicit DevicePolicy(const Configuration& configuration)
      : device_{streams_},
        allocator_{make(configuration, device_, streams_)},
        front_{*allocator_, device_} {}

  [[nodiscard]] PolicyFront& front() { return front_; }
  [[nodiscard]] std::string_view policy() const { return allocator_->name(); }
  [[nodiscard]] std::variant<Address, OutOfMemory> allocate(Bytes size, cudaStream_t stream) {
    const std::lock_guard lock{mutex_};
    return front_.allocate(size, streams_.add(stream));
  }
  [[nodiscard]] bool deallocate(Address address) {
    const std::lock_guard lock{mutex_};
    return front_.deallocate(address);
  }
  void record_stream(Address address, cudaStream_t stream) {
    const std::lock_guard lock{mutex_};
    // Memory of another owner (a foreign tensor) is not ours to hold back.
    static_cast<void>(front_.record_stream(address, streams_.add(stream)));
  }

 private:
  static std::unique_ptr<Allocator> make(const Configuration& configuration, Device& device,
                                         Streams& streams) {
    Expected<std::unique_ptr<Allocator>> made =
        make_policy(configuration.policy, device, streams, configuration.options);
    if (!made) {
      throw std::runtime_error{"peakcast: " + to_string(made.error())};
    }
    return std::move(made).value();
  }

  /// A stream's first use adds to streams_, which the policy reads: one lock for both.
  std::mutex mutex_{};
  CudaStreams streams_{};
  CudaDevice device_;
  std::unique_ptr<Allocator> allocator_;
  PolicyFront front_;
};

/// The process's state. Never destroyed: tensors are freed after static destructors have run.
struct State {
  std::mutex mutex{};
  Configuration configuration{};
  std::vector<std::optional<double>> fractions{};
  std::vector<std::unique_ptr<DevicePolicy>> devices{};  ///< by ordinal; null until first used
};

State& state() {
  static State* const instance = new State;
  return *instance;
}

/// Null unless the device has allocated already or `make` is set.
DevicePolicy* device_policy(int ordinal, bool make) {
  State& all = state();
  const std::lock_guard lock{all.mutex};
  const auto index = static_cast<std::size_t>(ordinal);
  if (index >= all.devices.size()) {
    if (!make) {
      return nullptr;
    }
    all.devices.resize(index + 1);
  }
  if (all.devices[index] == nullptr && make) {
    Configuration configuration = all.configuration;
    if (index < all.fractions.size() && all.fractions[index]) {
      std::size_t free = 0;
      std::size_t total = 0;
      cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
      configuration.options.limit =
          Bytes{static_cast<std::int64_t>(*all.fractions[index] * static_cast<double>(total))};
    }
    all.devices[index] = std::make_unique<DevicePolicy>(configuration);
  }
  return all.devices[index].get();
}

std::size_t copy_text(const std::string& text, char* target, std::size_t size) {
  if (size > 0) {
    const std::size_t length = std::min(text.size(), size - 1);
    std::memcpy(target, text.data(), length);
    target[length] = '\0';
  }
  return text.size();
}

}  // namespace
}  // namespace peakcast

using peakcast::Address;
using peakcast::Bytes;
using peakcast::DevicePolicy;

int peakcast_configure(const char* policy, const char* alloc_conf, int64_t limit_bytes,
                       char* message, size_t message_size) {
  peakcast::State& all = peakcast::state();
  const std::lock_guard lock{all.mutex};
  if (!all.devices.empty()) {
    peakcast::copy_text("memory has been allocated already", message, message_size);
    return 2;
  }
  peakcast::Configuration wanted;
  wanted.policy = policy;
  wanted.options.alloc_conf = alloc_conf != nullptr ? alloc_conf : "";
  if (limit_bytes >= 0) {
    wanted.options.limit = Bytes{limit_bytes};
  }
  try {
    // Made once for the check alone: what is wrong with a name or a setting is said now.
    peakcast::CudaStreams streams;
    peakcast::CudaDevice device{streams};
    const auto made = peakcast::make_policy(wanted.policy, device, streams, wanted.options);
    if (!made) {
      peakcast::copy_text(to_string(made.error()), message, message_size);
      return 2;
    }
  } catch (const std::exception& error) {
    peakcast::copy_text(error.what(), message, message_size);
    return 2;
  }
  all.configuration = wanted;
  peakcast::copy_text("", message, message_size);
  return 0;
}

void* peakcast_malloc(size_t size, int device, cudaStream_t stream) {
  if (size == 0) {
    return nullptr;
  }
  const peakcast::DeviceGuard guard{device};
  DevicePolicy* policy = peakcast::device_policy(device, true);
  const auto outcome = policy->allocate(Bytes{static_cast<std::int64_t>(size)}, stream);
  if (const auto* failure = std::get_if<peakcast::OutOfMemory>(&outcome)) {
    throw std::runtime_error{peakcast::out_of_memory_message(*failure, policy->policy())};
  }
  return peakcast::pointer_of(std::get<Address>(outcome));
}

void peakcast_free(void* pointer, size_t /*size*/, int device, cudaStream_t /*stream*/) {
  if (pointer == nullptr) {
    return;
  }
  DevicePolicy* policy = peakcast::device_policy(device, false);
  peakcast::check(policy != nullptr, "a pointer came back to a device that gave none");
  const peakcast::DeviceGuard guard{device};
  const bool ours = policy->deallocate(peakcast::address_of(pointer));
  peakcast::check(ours, "a pointer came back that is not live");
}

void peakcast_record_stream(void* pointer, cudaStream_t stream) {
  if (pointer == nullptr) {
    return;
  }
  int device = 0;
  peakcast::cuda_check(cudaGetDevice(&device), "cudaGetDevice");
  if (DevicePolicy* policy = peakcast::device_policy(device, false)) {
    policy->record_stream(peakcast::address_of(pointer), stream);
  }
}

void peakcast_reset(void) {
  peakcast::State& all = peakcast::state();
  for (std::size_t ordinal = 0;; ++ordinal) {
    {
      const std::lock_guard lock{all.mutex};
      if (ordinal >= all.devices.size()) {
        return;
      }
    }
    if (DevicePolicy* policy = peakcast::device_policy(static_cast<int>(ordinal), false)) {
      const peakcast::DeviceGuard guard{static_cast<int>(ordinal)};
      policy->front().empty_cache();
    }
  }
}

void peakcast_memory_fraction(double fraction, int device) {
  peakcast::State& all = peakcast::state();
  const std::lock_guard lock{all.mutex};
  const auto index = static_cast<std::size_t>(device);
  if (index < all.devices.size() && all.devices[index] != nullptr) {
    throw std::runtime_error{
        "peakcast: a memory fraction must be set before the device's first allocation"};
  }
  if (index >= all.fractions.size()) {
    all.fractions.resize(index + 1);
  }
  all.fractions[index] = fraction;
}

void peakcast_init(int /*device_count*/) {
  // Nothing: a device's policy is made by its first allocation, when the settings are known.
}

size_t peakcast_statistics(int device, char* text, size_t size) {
  DevicePolicy* policy = peakcast::device_policy(device, false);
  if (policy == nullptr) {
    peakcast::copy_text("", text, size);
    return 0;
  }
  return peakcast::copy_text(policy->front().statistics().dump(), text, size);
}
