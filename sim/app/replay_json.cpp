#include "sim/app/replay_json.hpp"

#include <cmath>
#include <cstdint>

#include <fmt/format.h>

namespace peakcast::app {
namespace {

template <class Pick>
Json levels_json(const Statistics& statistics, Pick pick) {
  Json out;
  out["requested_bytes"] = pick(statistics.requested);
  out["allocated_bytes"] = pick(statistics.allocated);
  out["active_bytes"] = pick(statistics.active);
  out["reserved_bytes"] = pick(statistics.reserved);
  out["inactive_split_bytes"] = pick(statistics.inactive_split);
  return out;
}

/// PyTorch's format_size: "<n> bytes" up to 1 KiB, then two decimals.
std::string pytorch_size(Bytes size) {
  constexpr double kKiB = 1024.0;
  const auto count = static_cast<double>(size.count());
  if (count <= kKiB) {
    return fmt::format("{} bytes", size.count());
  }
  if (count <= kKiB * kKiB) {
    return fmt::format("{:.2f} KiB", count / kKiB);
  }
  if (count <= kKiB * kKiB * kKiB) {
    return fmt::format("{:.2f} MiB", count / (kKiB * kKiB));
  }
  return fmt::format("{:.2f} GiB", count / (kKiB * kKiB * kKiB));
}

}  // namespace

Json peak_json(const Statistics& statistics) {
  return levels_json(statistics, [](const Level& level) { return level.peak; });
}

Json final_json(const Statistics& statistics) {
  return levels_json(statistics, [](const Level& level) { return level.current; });
}

Json counts_json(const Statistics& statistics) {
  Json out;
  out["allocs"] = statistics.allocations.allocated;
  out["frees"] = statistics.allocations.freed();
  out["segments_allocated"] = statistics.segments.allocated;
  out["segments_freed"] = statistics.segments.freed();
  out["alloc_retries"] = statistics.num_alloc_retries;
  out["ooms"] = statistics.num_ooms;
  return out;
}

double fragmentation(const Statistics& statistics) {
  if (statistics.reserved.peak <= 0) {
    return 0;
  }
  constexpr double kPlaces = 1e6;
  const double share = 1.0 - static_cast<double>(statistics.allocated.peak) /
                                 static_cast<double>(statistics.reserved.peak);
  return std::round(share * kPlaces) / kPlaces;
}

Json oom_json(const ReplayReport& report, const Trace& trace, const DeviceSpec& device,
              std::optional<Bytes> limit) {
  if (!report.oom) {
    return nullptr;
  }
  const OomReport& at = *report.oom;
  const OutOfMemory& oom = at.out_of_memory;
  const auto op = static_cast<std::size_t>(at.op_index);
  const bool recorded = trace.recording && op < trace.recording->event_of_op.size() &&
                        trace.recording->event_of_op[op] != kNoEvent;
  Json out;
  out["iteration"] = at.iteration >= 0 ? Json(at.iteration) : Json(nullptr);
  out["phase"] = at.phase;
  out["op"] = at.op;
  out["event"] = recorded ? Json(trace.recording->event_of_op[op]) : Json(at.op_index);
  out["requested_bytes"] = oom.requested.count();
  out["free_bytes"] = oom.device_free.count();
  out["largest_free_block_bytes"] = oom.largest_free_block.count();
  out["reserved_bytes"] = oom.reserved.count();
  out["message"] = oom_message(oom, device, limit);
  return out;
}

std::string oom_message(const OutOfMemory& oom, const DeviceSpec& device,
                        std::optional<Bytes> limit) {
  const std::string allowed = limit ? pytorch_size(*limit) + " allowed; " : "";
  return fmt::format(
      "CUDA out of memory. Tried to allocate {}. GPU 0 has a total capacity of {} of which {} is "
      "free. {}Of the allocated memory {} is allocated by PyTorch, and {} is reserved by PyTorch "
      "but unallocated.",
      pytorch_size(oom.attempted), pytorch_size(device.total), pytorch_size(oom.device_free),
      allowed, pytorch_size(oom.allocated), pytorch_size(oom.reserved - oom.allocated));
}

}  // namespace peakcast::app
