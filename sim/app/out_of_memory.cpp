#include "sim/app/out_of_memory.hpp"

#include <cstddef>

#include <fmt/format.h>

namespace peakcast::app {
namespace {

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

/// `pytorch`: in its own words. Another allocator's are not known, and these not its.
std::string message_of(const OutOfMemory& oom, const DeviceSpec& device, std::optional<Bytes> limit,
                       bool pytorch) {
  if (!pytorch) {
    return fmt::format(
        "Tried to allocate {}. The card has {}, of which {} is free{}. {} is allocated, and {} is "
        "reserved but unallocated.",
        pytorch_size(oom.attempted), pytorch_size(device.total), pytorch_size(oom.device_free),
        limit ? "; " + pytorch_size(*limit) + " is allowed" : "", pytorch_size(oom.allocated),
        pytorch_size(oom.reserved - oom.allocated));
  }
  const std::string allowed = limit ? pytorch_size(*limit) + " allowed; " : "";
  return fmt::format(
      "CUDA out of memory. Tried to allocate {}. GPU 0 has a total capacity of {} of which {} is "
      "free. {}Of the allocated memory {} is allocated by PyTorch, and {} is reserved by PyTorch "
      "but unallocated.",
      pytorch_size(oom.attempted), pytorch_size(device.total), pytorch_size(oom.device_free),
      allowed, pytorch_size(oom.allocated), pytorch_size(oom.reserved - oom.allocated));
}

}  // namespace

std::optional<OomAnswer> oom_answer(const ReplayReport& report, const Trace& trace,
                                    const DeviceSpec& device, std::optional<Bytes> limit,
                                    bool pytorch) {
  if (!report.oom) {
    return std::nullopt;
  }
  const auto op = static_cast<std::size_t>(report.oom->op_index);
  const bool recorded = trace.recording && op < trace.recording->event_of_op.size() &&
                        trace.recording->event_of_op[op] != kNoEvent;
  return OomAnswer{.at = *report.oom,
                   .event = recorded ? static_cast<std::int64_t>(trace.recording->event_of_op[op])
                                     : report.oom->op_index,
                   .message = message_of(report.oom->out_of_memory, device, limit, pytorch)};
}

bool speaks_as_pytorch(const PolicyName& policy, TraceFormat format) {
  return policy.is_pytorch() && format != TraceFormat::rmm_log &&
         format != TraceFormat::minimalloc_csv;
}

Json oom_json(const std::optional<OomAnswer>& oom) {
  if (!oom) {
    return nullptr;
  }
  const OomReport& at = oom->at;
  Json out;
  out["iteration"] = at.iteration >= 0 ? Json(at.iteration) : Json(nullptr);
  out["phase"] = at.phase;
  out["op"] = at.op;
  out["event"] = oom->event;
  out["requested_bytes"] = at.out_of_memory.requested.count();
  out["free_bytes"] = at.out_of_memory.device_free.count();
  out["largest_free_block_bytes"] = at.out_of_memory.largest_free_block.count();
  out["reserved_bytes"] = at.out_of_memory.reserved.count();
  out["message"] = oom->message;
  return out;
}

std::string oom_note(const std::optional<OomAnswer>& oom, const RunSpec& spec) {
  if (oom && oom->at.phase == "to_device" && spec.parallel == Parallel::zero3) {
    return "the whole model goes to every card before it is cut; deepspeed.zero.Init, under which "
           "Hugging Face's Trainer builds it in pieces, is for the captured engine: --zero-init";
  }
  return "";
}

std::string oom_place(const OomAnswer& oom) {
  const OomReport& at = oom.at;
  std::string place = at.iteration < 0 ? std::string{"before the first iteration"}
                                       : fmt::format("in iteration {}", at.iteration);
  if (!at.phase.empty()) {
    place += fmt::format(", phase {}", at.phase);
  }
  if (!at.op.empty()) {
    place += fmt::format(", at {}", at.op);
  }
  return place;
}

}  // namespace peakcast::app
