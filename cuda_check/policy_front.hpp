#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "sim/alloc/allocator.hpp"
#include "sim/device/device.hpp"
#include "sim/report/json.hpp"

namespace peakcast {

/// A policy as a framework calls it: by pointer, from any thread, in any order.
/// Borrows the allocator and its device; both outlive it. Every call takes one lock.
///
/// A private pool (a CUDA graph's, a torch.cuda.MemPool) is a policy of its own on the same device,
/// made by `make_pool` when it is first retained: nothing outside it gets its memory, and that
/// stays where it is until the pool has no user and no live block any more.
class PolicyFront {
 public:
  /// PyTorch's id of a pool; {0, 0} is none.
  using PoolId = std::pair<std::uint64_t, std::uint64_t>;
  using MakePool = std::function<std::unique_ptr<Allocator>()>;

  PolicyFront(Allocator& allocator, Device& device, MakePool make_pool = {})
      : allocator_{&allocator}, device_{&device}, make_pool_{std::move(make_pool)} {}

  /// size > 0. The address, or the numbers of an out-of-memory: of the device as a whole. A `pool`
  /// that nobody has retained is none.
  [[nodiscard]] std::variant<Address, OutOfMemory> allocate(Bytes size, StreamId stream,
                                                            PoolId pool = {});
  /// False (and nothing done) when `address` is not that of a live block.
  [[nodiscard]] bool deallocate(Address address);
  [[nodiscard]] bool record_stream(Address address, StreamId stream);
  void empty_cache();

  /// One user more or less of `pool`.
  void retain(PoolId pool);
  void release(PoolId pool);
  [[nodiscard]] std::int64_t users(PoolId pool);
  /// While a graph is captured, no event of ours may get into it: blocks that other streams used
  /// are given back when no capture is under way any more. Calls nest.
  void begin_capture();
  void end_capture();

  /// The books of the policy and its pools together: peaks are those of the sums.
  [[nodiscard]] Statistics books();
  void reset_peaks();
  /// What was allocated and freed is counted from now on.
  void reset_totals();
  /// The same in PyTorch's words, with `_bytes` where they count bytes; device calls too.
  [[nodiscard]] Json statistics();
  /// Each heap with the pool it is of, the common one first.
  [[nodiscard]] std::vector<std::pair<PoolId, HeapView>> heaps();
  /// `sink` (may be null) hears of everything from now on, under the lock.
  void set_sink(EventSink* sink);

 private:
  struct Pool {
    std::unique_ptr<Allocator> policy{};
    std::int64_t users{};
    std::int64_t blocks{};
  };
  struct Block {
    BlockId id{};
    Allocator* owner{};
    PoolId pool{};
    bool used_elsewhere{};  ///< streams were recorded
  };
  [[nodiscard]] Pool* find(PoolId pool);
  void give_back(const Block& block);
  void end_if_unused(PoolId pool);
  /// Calls `act` on a policy and adds to the books what it changed in its own.
  template <class Act>
  auto counted(Allocator& policy, Act act);

  std::mutex mutex_{};
  Allocator* allocator_;
  Device* device_;
  MakePool make_pool_;
  std::unordered_map<std::uint64_t, Block> live_{};  ///< by address; never iterated
  std::map<PoolId, Pool> pools_{};
  std::vector<Block> deferred_{};  ///< dropped while a graph was captured
  int captures_{};
  EventSink* sink_{};
  Statistics books_{};
};

/// What PyTorch's own message says, in its words, by which programs know it and read it; `policy`
/// is named behind it. `limit`: the allocator's own.
[[nodiscard]] std::string out_of_memory_message(const OutOfMemory& out_of_memory, int device,
                                                Bytes total, std::optional<Bytes> limit,
                                                std::string_view policy);

}  // namespace peakcast
