#include "cuda_check/pluggable_allocator.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
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

/// While it lives, calls of the driver are allowed in this thread although a graph is captured:
/// they do not get into it. As PyTorch's own allocator does it.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(bool captured) : captured_{captured} { exchange(); }
  ~RelaxedCapture() { exchange(); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  void exchange() {
    if (captured_) {
      static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_));
    }
  }
  bool captured_;
  cudaStreamCaptureMode mode_{cudaStreamCaptureModeRelaxed};
};

struct Listener {
  void (*heard)(void*, const peakcast_event*){};
  void* context{};
};

/// One card's policy with all that it borrows.
class DevicePolicy final : public EventSink {
 public:
  DevicePolicy(int ordinal, const Configuration& configuration)
      : ordinal_{ordinal},
        limit_{configuration.options.limit},
        device_{streams_},
        allocator_{make(configuration.policy, configuration.options, device_, streams_)},
        // A graph replays its addresses: its pool is the native allocator's, which maps nothing
        // anew and records no event for a stream of its own.
        front_{*allocator_, device_, [this] { return make("pytorch", {}, device_, streams_); }} {}

  [[nodiscard]] Statistics books() {
    return locked([&] { return front_.books(); });
  }
  [[nodiscard]] std::string statistics() {
    return locked([&] { return front_.statistics().dump(); });
  }
  [[nodiscard]] auto heaps() {
    return locked([&] { return front_.heaps(); });
  }
  [[nodiscard]] cudaStream_t handle(StreamId stream) const { return streams_.handle(stream); }
  [[nodiscard]] std::variant<Address, OutOfMemory> allocate(Bytes size, cudaStream_t stream,
                                                            PolicyFront::PoolId pool) {
    return locked([&] { return front_.allocate(size, streams_.add(stream), pool); });
  }
  [[nodiscard]] std::string message(const OutOfMemory& failure) const {
    return out_of_memory_message(failure, ordinal_, device_.spec().total, limit_,
                                 allocator_->name());
  }
  [[nodiscard]] bool deallocate(Address address) {
    return locked([&] { return front_.deallocate(address); });
  }
  void record_stream(Address address, cudaStream_t stream) {
    // Memory of another owner (a foreign tensor) is not ours to hold back.
    locked([&] { return front_.record_stream(address, streams_.add(stream)); });
  }
  /// What has no answer: empty_cache, pools, captures.
  template <class Act>
  void tell(Act act) {
    locked([&] {
      act(front_);
      return true;
    });
  }
  void begin_capture() {
    tell([&](PolicyFront& front) { front.begin_capture(); });
    ++captures_;
  }
  void end_capture() {
    --captures_;
    tell([&](PolicyFront& front) { front.end_capture(); });
  }
  void listen(Listener listener) {
    locked([&] {
      listener_ = listener;
      front_.set_sink(listener.heard != nullptr ? this : nullptr);
      return true;
    });
  }
  void on_event(const AllocatorEvent& event) override {
    const std::string action{to_string(event.action)};
    const peakcast_event told{.device = ordinal_,
                              .action = action.c_str(),
                              .address = event.address.value(),
                              .size = static_cast<std::uint64_t>(event.size.count()),
                              .stream = streams_.handle(event.stream)};
    listener_.heard(listener_.context, &told);
  }

 private:
  static std::unique_ptr<Allocator> make(const std::string& policy, const PolicyOptions& options,
                                         Device& device, Streams& streams) {
    Expected<std::unique_ptr<Allocator>> made = make_policy(policy, device, streams, options);
    if (!made) {
      throw std::runtime_error{"peakcast: " + to_string(made.error())};
    }
    return std::move(made).value();
  }
  /// A stream's first use adds to streams_, which the policy reads: one lock for both.
  template <class Act>
  std::invoke_result_t<Act> locked(Act act) {
    const std::lock_guard lock{mutex_};
    const RelaxedCapture relaxed{captures_ > 0};
    return act();
  }

  std::mutex mutex_{};
  std::atomic<int> captures_{};
  int ordinal_;
  std::optional<Bytes> limit_;
  Listener listener_{};
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
  Listener listener{};
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
    all.devices[index] = std::make_unique<DevicePolicy>(ordinal, configuration);
    all.devices[index]->listen(all.listener);
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
  const auto outcome = policy->allocate(Bytes{static_cast<std::int64_t>(size)}, stream, {});
  if (const auto* failure = std::get_if<peakcast::OutOfMemory>(&outcome)) {
    throw std::runtime_error{policy->message(*failure)};
  }
  return peakcast::pointer_of(std::get<Address>(outcome));
}

void* peakcast_try_malloc(size_t size, int device, cudaStream_t stream, peakcast_pool pool,
                          char* message, size_t message_size) {
  const peakcast::DeviceGuard guard{device};
  DevicePolicy* policy = peakcast::device_policy(device, true);
  const auto outcome =
      policy->allocate(Bytes{static_cast<std::int64_t>(size)}, stream, {pool.first, pool.second});
  if (const auto* failure = std::get_if<peakcast::OutOfMemory>(&outcome)) {
    peakcast::copy_text(policy->message(*failure), message, message_size);
    return nullptr;
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
      policy->tell([](peakcast::PolicyFront& front) { front.empty_cache(); });
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
  return peakcast::copy_text(policy->statistics(), text, size);
}

void peakcast_pool_retain(int device, peakcast_pool pool) {
  const peakcast::DeviceGuard guard{device};
  peakcast::device_policy(device, true)->tell([&](peakcast::PolicyFront& front) {
    front.retain({pool.first, pool.second});
  });
}

void peakcast_pool_release(int device, peakcast_pool pool) {
  if (DevicePolicy* policy = peakcast::device_policy(device, false)) {
    const peakcast::DeviceGuard guard{device};
    policy->tell([&](peakcast::PolicyFront& front) { front.release({pool.first, pool.second}); });
  }
}

int64_t peakcast_pool_users(int device, peakcast_pool pool) {
  std::int64_t users = 0;
  if (DevicePolicy* policy = peakcast::device_policy(device, false)) {
    policy->tell([&](peakcast::PolicyFront& front) {
      users = front.users({pool.first, pool.second});
    });
  }
  return users;
}

void peakcast_capture_begin(int device) {
  const peakcast::DeviceGuard guard{device};
  peakcast::device_policy(device, true)->begin_capture();
}

void peakcast_capture_end(int device) {
  const peakcast::DeviceGuard guard{device};
  peakcast::device_policy(device, true)->end_capture();
}

void peakcast_get_books(int device, peakcast_books* books) {
  *books = peakcast_books{};
  DevicePolicy* policy = peakcast::device_policy(device, false);
  if (policy == nullptr) {
    return;
  }
  const auto level = [](const peakcast::Level& from) {
    return peakcast_level{from.current, from.peak, from.allocated, from.freed()};
  };
  const peakcast::Statistics from = policy->books();
  *books = peakcast_books{.requested = level(from.requested),
                          .allocated = level(from.allocated),
                          .active = level(from.active),
                          .reserved = level(from.reserved),
                          .inactive_split = level(from.inactive_split),
                          .segments = level(from.segments),
                          .allocations = level(from.allocations),
                          .alloc_retries = from.num_alloc_retries,
                          .ooms = from.num_ooms,
                          .syncs = from.num_sync_all_streams,
                          .device_allocs = from.num_device_alloc,
                          .device_frees = from.num_device_free};
}

void peakcast_reset_peaks(int device) {
  if (DevicePolicy* policy = peakcast::device_policy(device, false)) {
    policy->tell([](peakcast::PolicyFront& front) { front.reset_peaks(); });
  }
}

void peakcast_reset_totals(int device) {
  if (DevicePolicy* policy = peakcast::device_policy(device, false)) {
    policy->tell([](peakcast::PolicyFront& front) { front.reset_totals(); });
  }
}

void peakcast_visit(int device, void (*segment)(void*, const peakcast_segment*),
                    void (*block)(void*, const peakcast_block*), void* context) {
  DevicePolicy* policy = peakcast::device_policy(device, false);
  if (policy == nullptr) {
    return;
  }
  const auto number = [](Bytes size) { return static_cast<std::uint64_t>(size.count()); };
  for (const auto& [pool, heap] : policy->heaps()) {
    for (const peakcast::SegmentView& view : heap.segments) {
      const peakcast_segment told{.address = view.address.value(),
                                  .size = number(view.size),
                                  .stream = policy->handle(view.stream),
                                  .expandable = view.expandable ? 1 : 0,
                                  .small = view.small_pool ? 1 : 0,
                                  .pool = {pool.first, pool.second}};
      segment(context, &told);
      for (const peakcast::BlockView& held : view.blocks) {
        const peakcast_block of{.address = held.address.value(),
                                .size = number(held.size),
                                .requested = number(held.requested),
                                .allocated = held.state == peakcast::BlockState::allocated,
                                .pending = held.state == peakcast::BlockState::pending};
        block(context, &of);
      }
    }
  }
}

void peakcast_listen(void (*heard)(void*, const peakcast_event*), void* context) {
  peakcast::State& all = peakcast::state();
  const std::lock_guard lock{all.mutex};
  all.listener = {heard, context};
  for (const auto& policy : all.devices) {
    if (policy != nullptr) {
      policy->listen(all.listener);
    }
  }
}
