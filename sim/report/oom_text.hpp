#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/error.hpp"
#include "sim/core/units.hpp"

namespace peakcast {

/// The figures in the text of PyTorch's out-of-memory error, each within the two decimals that it
/// prints. Forms: since 2.1 "Tried to allocate ... GPU 0 has a total capacity of ..." and before
/// "Tried to allocate ... (GPU 0; ... total capacity; ... already allocated; ...)"; both in
/// c10/cuda/CUDACachingAllocator.cpp of their releases.
struct OomText {
  Bytes tried{};                        ///< the segment that was asked of the driver
  std::int64_t gpu{-1};                 ///< -1: not told
  Bytes capacity{};                     ///< of the card
  Bytes free{};                         ///< of the card, whoever holds the rest
  std::optional<Bytes> process{};       ///< all that this process holds of the card
  std::optional<Bytes> named_others{};  ///< held by other processes that the text names
  std::optional<Bytes> allowed{};       ///< the allocator's own limit
  Bytes allocated{};
  std::optional<Bytes> private_pools{};  ///< of allocated
  Bytes unallocated{};                   ///< reserved less allocated

  [[nodiscard]] Bytes reserved() const { return allocated + unallocated; }
  /// What this process holds outside the allocator: context, libraries, NCCL.
  [[nodiscard]] std::optional<Bytes> outside() const;
  /// What others hold of the card; where the text does not say what this process holds, what lies
  /// outside the allocator is among it.
  [[nodiscard]] Bytes others() const;
};

/// What a message says of why memory ran out.
enum class OomCause : std::uint8_t {
  limit,            ///< the allocator's own limit, not the card
  fragmentation,    ///< enough is reserved and unallocated, but not in one piece
  other_processes,  ///< the card would do if others left it
  demand,           ///< the program needs more than there is
};
[[nodiscard]] std::string_view to_string(OomCause cause);

/// What follows from one message: the cause, and what can be done, one sentence each.
struct OomReading {
  OomCause cause{};
  std::string verdict{};
  std::vector<std::string> remedies{};
};

/// The figures of `text`, which may hold more than the message (a traceback, line ends). An error
/// says which figure is not there.
[[nodiscard]] Expected<OomText> parse_oom_text(std::string_view text);

[[nodiscard]] OomReading read_oom(const OomText& oom);

}  // namespace peakcast
