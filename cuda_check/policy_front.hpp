#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <variant>

#include "sim/alloc/allocator.hpp"
#include "sim/device/device.hpp"
#include "sim/report/json.hpp"

namespace peakcast {

/// A policy as a framework calls it: by pointer, from any thread, in any order.
/// Borrows the allocator and its device; both outlive it. Every call takes one lock.
class PolicyFront {
 public:
  PolicyFront(Allocator& allocator, Device& device) : allocator_{&allocator}, device_{&device} {}

  /// size > 0. The address, or the numbers of an out-of-memory.
  [[nodiscard]] std::variant<Address, OutOfMemory> allocate(Bytes size, StreamId stream);
  /// False (and nothing done) when `address` is not that of a live block.
  [[nodiscard]] bool deallocate(Address address);
  [[nodiscard]] bool record_stream(Address address, StreamId stream);
  void empty_cache();
  /// The policy's books: PyTorch's words with `_bytes` where they count bytes; device calls too.
  [[nodiscard]] Json statistics();

 private:
  std::mutex mutex_{};
  Allocator* allocator_;
  Device* device_;
  std::unordered_map<std::uint64_t, BlockId> live_{};  ///< by address; never iterated
};

/// One sentence with the numbers that explain it, as PyTorch's own message gives them; begins with
/// "CUDA out of memory", by which programs know it.
[[nodiscard]] std::string out_of_memory_message(const OutOfMemory& out_of_memory,
                                                std::string_view policy);

}  // namespace peakcast
