#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sim/core/units.hpp"

namespace peakcast {

/// When a row of the table of memory outside every allocator counts.
enum class OutsideWhen : std::uint8_t {
  always,
  cudnn_attention,  ///< attention runs in cuDNN: its handle and the kernels it builds
  sharding,         ///< FSDP: further streams and the kernels that copy and cast shards
  ddp,              ///< DDP on two ranks or more
  zero_1_2,         ///< DeepSpeed's ZeRO, stages 1 and 2
  zero_3,           ///< stage 3
  nccl_one_rank,    ///< an NCCL communicator of one rank
  nccl,             ///< an NCCL communicator of two ranks or more
};

[[nodiscard]] std::string_view to_string(OutsideWhen when);

/// Device memory that no allocator sees, with where the figure comes from.
struct OutsideItem {
  std::string item{};
  OutsideWhen when{};
  Bytes size{};
  bool measured{};       ///< on this card; false: another card's figure
  std::string source{};  ///< device, driver, versions, how to measure it again
};

/// What a run loads on the card.
struct OutsideUse {
  bool cudnn_attention{};
  /// sharding, ddp, zero_1_2 or zero_3; always: none of them
  OutsideWhen parallel{OutsideWhen::always};
  std::int64_t nccl_ranks{};  ///< 0: no NCCL
};

}  // namespace peakcast
