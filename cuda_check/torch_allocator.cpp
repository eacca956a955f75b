// A whole allocator of PyTorch's out of libpeakcast_allocator.so: statistics, snapshots, private
// pools, out-of-memory as torch.OutOfMemoryError. Compiled by torch_allocator.py against the
// PyTorch that is there, whose C++ classes it derives from; so it is no target of CMake's.

#include <algorithm>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/ApproximateClock.h>
#include <c10/util/Exception.h>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <torch/csrc/cuda/CUDAPluggableAllocator.h>
#include <unordered_map>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

#include "cuda_check/pluggable_allocator.h"

namespace {

namespace caching = c10::cuda::CUDACachingAllocator;
using c10::CachingDeviceAllocator::BlockInfo;
using c10::CachingDeviceAllocator::DeviceStats;
using c10::CachingDeviceAllocator::SegmentInfo;
using c10::CachingDeviceAllocator::TraceEntry;
using caching::CreateContextFn;
using caching::RecordContext;
using Base = torch::cuda::CUDAPluggableAllocator::CUDAPluggableAllocator;

peakcast_pool pool_of(c10::cuda::MempoolId_t id) { return {id.first, id.second}; }

/// What PyTorch's recorder of histories needs: entries with the stacks that led to them.
class History {
 public:
  void record(bool enabled, CreateContextFn context, size_t most, RecordContext when, bool clear) {
    const std::lock_guard lock{mutex_};
    context_ = enabled ? context : nullptr;
    when_ = enabled ? when : RecordContext::NEVER;
    enabled_ = enabled;
    most_ = most;
    if (!enabled || clear) {
      entries_.clear();
      stacks_.clear();
    }
  }
  bool enabled() {
    const std::lock_guard lock{mutex_};
    return enabled_;
  }
  /// Taken before the policy's lock: it may want Python's.
  std::shared_ptr<c10::GatheredContext> stack(RecordContext least) {
    CreateContextFn context = nullptr;
    {
      const std::lock_guard lock{mutex_};
      context = when_ >= least ? context_ : nullptr;
    }
    return context != nullptr ? context() : nullptr;
  }
  void hear(const peakcast_event& event, const std::shared_ptr<c10::GatheredContext>& stack) {
    const TraceEntry entry{c10::CachingDeviceAllocator::parseTraceEntryAction(event.action),
                           static_cast<c10::DeviceIndex>(event.device),
                           event.address,
                           event.size,
                           event.stream,
                           {0, 0},
                           c10::getApproximateTime(),
                           stack};
    const std::lock_guard lock{mutex_};
    for (const auto& tracker : trackers_) {
      tracker(entry);
    }
    if (!enabled_) {
      return;
    }
    if (entry.action_ == TraceEntry::ALLOC) {
      stacks_[event.address] = stack;
    } else if (entry.action_ == TraceEntry::FREE_COMPLETED) {
      stacks_.erase(event.address);
    }
    entries_.push_back(entry);
    while (entries_.size() > most_) {
      entries_.pop_front();
    }
  }
  void add_tracker(caching::AllocatorTraceTracker tracker) {
    const std::lock_guard lock{mutex_};
    trackers_.push_back(std::move(tracker));
  }
  std::shared_ptr<c10::GatheredContext> stack_of(std::uint64_t address) {
    const std::lock_guard lock{mutex_};
    const auto found = stacks_.find(address);
    return found == stacks_.end() ? nullptr : found->second;
  }
  std::vector<TraceEntry> entries(int device) {
    static c10::ApproximateClockToUnixTimeConverter clock;
    const auto to_unix = clock.makeConverter();
    const std::lock_guard lock{mutex_};
    std::vector<TraceEntry> of_device;
    for (TraceEntry entry : entries_) {
      if (entry.device_ == device) {
        entry.time_.t_ = to_unix(entry.time_.approx_t_) / 1000;
        of_device.push_back(std::move(entry));
      }
    }
    return of_device;
  }

 private:
  std::mutex mutex_;
  bool enabled_{};
  CreateContextFn context_{};
  RecordContext when_{RecordContext::NEVER};
  size_t most_{};
  std::deque<TraceEntry> entries_;
  std::unordered_map<std::uint64_t, std::shared_ptr<c10::GatheredContext>> stacks_;
  std::vector<caching::AllocatorTraceTracker> trackers_;
};

History& history() {
  static History* const instance = new History;
  return *instance;
}

/// The stack that led to the present call of this thread.
thread_local std::shared_ptr<c10::GatheredContext> present_stack;

class PolicyAllocator final : public Base {
 public:
  PolicyAllocator()
      : Base{[this](size_t size, int device, cudaStream_t stream) {
               return give(size, device, stream);
             },
             [](void* pointer, size_t size, int device, cudaStream_t stream) {
               present_stack = history().stack(RecordContext::ALL);
               peakcast_free(pointer, size, device, stream);
               present_stack.reset();
             }} {
    set_record_stream_fn(peakcast_record_stream);
    set_reset_fn(peakcast_reset);
    set_memory_fraction_fn([this](double fraction, int device) {
      peakcast_memory_fraction(fraction, device);
      fractions_[device] = fraction;
    });
    set_init_fn(peakcast_init);
  }

  double getMemoryFraction(c10::DeviceIndex device) override {
    const auto found = fractions_.find(device);
    return found == fractions_.end() ? 1.0 : found->second;
  }
  std::vector<caching::StreamSegmentSize> getExpandableSegmentSizes(c10::DeviceIndex) override {
    return {};
  }
  void emptyCache(c10::cuda::MempoolId_t pool) override {
    if (pool == c10::cuda::MempoolId_t{0, 0}) {
      peakcast_reset();
    }  // a private pool's memory goes back when its last user does
  }
  std::string name() override { return "peakcast"; }

  DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    peakcast_books books{};
    peakcast_get_books(device, &books);
    DeviceStats stats;
    // The policy has no small and no large pool: all is in the sum of both.
    const auto fill = [](auto& stat, const peakcast_level& level) {
      auto& all = stat[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
      all.current = level.current;
      all.peak = level.peak;
      all.allocated = level.allocated;
      all.freed = level.freed;
    };
    fill(stats.allocation, books.allocations);
    fill(stats.active, books.allocations);
    fill(stats.segment, books.segments);
    fill(stats.allocated_bytes, books.allocated);
    fill(stats.reserved_bytes, books.reserved);
    fill(stats.active_bytes, books.active);
    fill(stats.inactive_split_bytes, books.inactive_split);
    fill(stats.requested_bytes, books.requested);
    stats.num_alloc_retries = books.alloc_retries;
    stats.num_ooms = books.ooms;
    stats.num_sync_all_streams = books.syncs;
    stats.num_device_alloc = books.device_allocs;
    stats.num_device_free = books.device_frees;
    return stats;
  }
  void resetPeakStats(c10::DeviceIndex device) override { peakcast_reset_peaks(device); }
  void resetAccumulatedStats(c10::DeviceIndex device) override { peakcast_reset_totals(device); }

  caching::SnapshotInfo snapshot(c10::cuda::MempoolId_t pool, bool include_traces) override {
    caching::SnapshotInfo info;
    info.config_metadata = {};
    const int devices = c10::cuda::device_count();
    for (int device = 0; device < devices; ++device) {
      Walk walk{pool, device, info.segments};
      peakcast_visit(device, &Walk::segment, &Walk::block, &walk);
      info.device_traces.push_back(include_traces ? history().entries(device)
                                                  : std::vector<TraceEntry>{});
    }
    return info;
  }
  void recordHistory(bool enabled, CreateContextFn context, size_t most, RecordContext when,
                     bool clear, const std::vector<std::string>& /*skipped*/) override {
    history().record(enabled, context, most, when, clear);
    listen();
  }
  bool isHistoryEnabled() override { return history().enabled(); }
  void attachAllocatorTraceTracker(caching::AllocatorTraceTracker tracker) override {
    history().add_tracker(std::move(tracker));
    tracked_ = true;
    listen();
  }
  void attachOutOfMemoryObserver(caching::OutOfMemoryObserver observer) override {
    const std::lock_guard lock{mutex_};
    observers_.push_back(std::move(observer));
  }

  // Requests of streams that `filter` accepts come from the pool until the end is called.
  void beginAllocateToPool(c10::DeviceIndex device, c10::cuda::MempoolId_t pool,
                           std::function<bool(cudaStream_t)> filter) override {
    peakcast_pool_retain(device, pool_of(pool));
    peakcast_capture_begin(device);
    const std::lock_guard lock{mutex_};
    diverted_.push_back({device, pool, std::move(filter)});
  }
  void endAllocateToPool(c10::DeviceIndex device, c10::cuda::MempoolId_t pool) override {
    {
      const std::lock_guard lock{mutex_};
      const auto found = std::find_if(diverted_.begin(), diverted_.end(), [&](const auto& entry) {
        return entry.device == device && entry.pool == pool;
      });
      TORCH_CHECK(found != diverted_.end(), "endAllocateToPool without a begin");
      diverted_.erase(found);
    }
    peakcast_capture_end(device);
  }
  // ~MemPool() takes the permission back whether it was given or not.
  void setUseOnOOM(c10::DeviceIndex /*device*/, c10::cuda::MempoolId_t /*pool*/,
                   bool use) override {
    TORCH_CHECK(!use, "peakcast has no pools that lend their memory out (use_on_oom)");
  }
  void releasePool(c10::DeviceIndex device, c10::cuda::MempoolId_t pool) override {
    peakcast_pool_release(device, pool_of(pool));
  }
  int getPoolUseCount(c10::DeviceIndex device, c10::cuda::MempoolId_t pool) override {
    return static_cast<int>(peakcast_pool_users(device, pool_of(pool)));
  }
  void createOrIncrefPool(c10::DeviceIndex device, c10::cuda::MempoolId_t pool,
                          std::shared_ptr<caching::CUDAAllocator> allocator) override {
    TORCH_CHECK(allocator == nullptr, "peakcast: a MemPool with an allocator of its own");
    peakcast_pool_retain(device, pool_of(pool));
  }

 private:
  struct Diverted {
    c10::DeviceIndex device;
    c10::cuda::MempoolId_t pool;
    std::function<bool(cudaStream_t)> filter;
  };
  /// Builds PyTorch's segments from what peakcast_visit() tells.
  struct Walk {
    c10::cuda::MempoolId_t wanted;
    int device;
    std::vector<SegmentInfo>& segments;
    bool taken{};

    static void segment(void* context, const peakcast_segment* told) {
      Walk& walk = *static_cast<Walk*>(context);
      const c10::cuda::MempoolId_t pool{told->pool.first, told->pool.second};
      walk.taken = walk.wanted == c10::cuda::MempoolId_t{0, 0} || walk.wanted == pool;
      if (walk.taken) {
        SegmentInfo info;
        info.device = static_cast<c10::DeviceIndex>(walk.device);
        info.address = told->address;
        info.total_size = told->size;
        info.stream = told->stream;
        info.is_large = told->small == 0;
        info.is_expandable = told->expandable != 0;
        info.owner_private_pool_id = pool;
        walk.segments.push_back(std::move(info));
      }
    }
    static void block(void* context, const peakcast_block* told) {
      Walk& walk = *static_cast<Walk*>(context);
      if (!walk.taken) {
        return;
      }
      SegmentInfo& segment = walk.segments.back();
      BlockInfo info;
      info.size = told->size;
      info.requested_size = told->requested;
      info.allocated = told->allocated != 0;
      info.active = told->allocated != 0 || told->pending != 0;
      info.context_when_allocated = history().stack_of(told->address);
      segment.requested_size += info.active ? told->requested : 0;
      segment.allocated_size += info.allocated ? told->size : 0;
      segment.active_size += info.active ? told->size : 0;
      segment.blocks.push_back(std::move(info));
    }
  };

  void* give(size_t size, int device, cudaStream_t stream) {
    if (size == 0) {
      return nullptr;
    }
    peakcast_pool pool{0, 0};
    {
      const std::lock_guard lock{mutex_};
      for (const Diverted& entry : diverted_) {
        if (entry.device == device && entry.filter(stream)) {
          pool = pool_of(entry.pool);
          break;
        }
      }
    }
    char message[1024];
    present_stack = history().stack(RecordContext::STATE);
    void* const pointer = peakcast_try_malloc(size, device, stream, pool, message, sizeof message);
    present_stack.reset();
    if (pointer == nullptr) {
      fail(device, message);
    }
    return pointer;
  }
  [[noreturn]] void fail(int device, const char* message) {
    peakcast_books books{};
    peakcast_get_books(device, &books);
    size_t free = 0;
    size_t total = 0;
    static_cast<void>(cudaMemGetInfo(&free, &total));
    std::vector<caching::OutOfMemoryObserver> observers;
    {
      const std::lock_guard lock{mutex_};
      observers = observers_;
    }
    for (const auto& observer : observers) {
      observer(device, static_cast<size_t>(books.allocated.current), total, free);
    }
    TORCH_CHECK_WITH(OutOfMemoryError, false, message);
    std::abort();  // not reached
  }
  void listen() {
    const bool heard = tracked_ || history().enabled();
    peakcast_listen(
        heard ? [](void*, const peakcast_event* event) { history().hear(*event, present_stack); }
              : static_cast<void (*)(void*, const peakcast_event*)>(nullptr),
        nullptr);
  }

  std::mutex mutex_;
  std::vector<Diverted> diverted_;
  std::vector<caching::OutOfMemoryObserver> observers_;
  std::unordered_map<int, double> fractions_;
  bool tracked_{};
};

}  // namespace

/// Makes it PyTorch's allocator from now on. Null, or why it cannot be.
extern "C" __attribute__((visibility("default"))) const char* peakcast_install() {
  static std::string reason;
  try {
    torch::cuda::CUDAPluggableAllocator::changeCurrentAllocator(
        std::make_shared<PolicyAllocator>());
  } catch (const std::exception& error) {
    reason = error.what();
    return reason.c_str();
  }
  return nullptr;
}
