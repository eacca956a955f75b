#include "cuda_check/comparison.hpp"

#include <algorithm>
#include <array>

namespace peakcast {
namespace {

bool same_level(const Level& a, const Level& b) {
  return a.current == b.current && a.peak == b.peak && a.allocated == b.allocated;
}

std::vector<std::string_view> other_statistics(const Statistics& a, const Statistics& b) {
  std::vector<std::string_view> names;
  const auto level = [&](std::string_view name, const Level& x, const Level& y) {
    if (!same_level(x, y)) {
      names.push_back(name);
    }
  };
  const auto count = [&](std::string_view name, std::int64_t x, std::int64_t y) {
    if (x != y) {
      names.push_back(name);
    }
  };
  level("requested", a.requested, b.requested);
  level("allocated", a.allocated, b.allocated);
  level("active", a.active, b.active);
  level("reserved", a.reserved, b.reserved);
  level("inactive_split", a.inactive_split, b.inactive_split);
  level("segments", a.segments, b.segments);
  level("allocations", a.allocations, b.allocations);
  count("num_alloc_retries", a.num_alloc_retries, b.num_alloc_retries);
  count("num_ooms", a.num_ooms, b.num_ooms);
  count("num_device_alloc", a.num_device_alloc, b.num_device_alloc);
  count("num_device_free", a.num_device_free, b.num_device_free);
  count("num_sync_all_streams", a.num_sync_all_streams, b.num_sync_all_streams);
  return names;
}

/// Addresses are not compared: the driver's own are its business. Neither is an OOM's free memory,
/// which the device difference covers.
bool same_step(const DeviceStep& a, const DeviceStep& b) {
  return a.action == b.action && a.size == b.size && a.stream == b.stream;
}

bool same_oom(const std::optional<OomReport>& a, const std::optional<OomReport>& b) {
  if (!a || !b) {
    return a.has_value() == b.has_value();
  }
  return a->op_index == b->op_index && a->out_of_memory.requested == b->out_of_memory.requested &&
         a->out_of_memory.allocated == b->out_of_memory.allocated &&
         a->out_of_memory.reserved == b->out_of_memory.reserved;
}

Bytes distance(Bytes a, Bytes b) { return a < b ? b - a : a - b; }

}  // namespace

void StepLog::on_event(const AllocatorEvent& event) {
  switch (event.action) {
    case Action::segment_alloc:
    case Action::segment_free:
    case Action::segment_map:
    case Action::segment_unmap:
    case Action::oom:
      break;
    case Action::alloc:
    case Action::free_requested:
    case Action::free_completed:
    case Action::snapshot:
      return;
  }
  DeviceStep step{event.action, event.size, event.stream, event.address, std::nullopt};
  if (steps_.size() < samples_) {
    step.device_free = device_->free_memory();
  }
  steps_.push_back(step);
}

Comparison compare_runs(const PolicyRun& simulated, const PolicyRun& real, Bytes page) {
  Comparison result;
  result.steps = real.steps.size();
  const std::size_t common = std::min(simulated.steps.size(), real.steps.size());
  for (std::size_t i = 0; i < common; ++i) {
    if (!same_step(simulated.steps[i], real.steps[i])) {
      result.first_other_step = i;
      break;
    }
  }
  if (!result.first_other_step && simulated.steps.size() != real.steps.size()) {
    result.first_other_step = common;
  }
  const Statistics& simulated_books = simulated.report.statistics;
  const Statistics& real_books = real.report.statistics;
  result.same_reserved = same_level(simulated_books.reserved, real_books.reserved);
  result.other_statistics = other_statistics(simulated_books, real_books);
  result.same_oom = same_oom(simulated.report.oom, real.report.oom);

  const auto note = [&](Bytes simulated_free, Bytes real_free) {
    result.largest_device_difference =
        std::max(result.largest_device_difference,
                 distance(simulated.free_before - simulated_free, real.free_before - real_free));
  };
  for (std::size_t i = 0; i < common; ++i) {
    if (simulated.steps[i].device_free && real.steps[i].device_free) {
      note(*simulated.steps[i].device_free, *real.steps[i].device_free);
    }
  }
  note(simulated.free_after, real.free_after);
  result.allowed_device_difference =
      page * std::max<std::int64_t>(1, real.report.statistics.segments.peak);
  return result;
}

Json run_json(const PolicyRun& run) {
  const Statistics& books = run.report.statistics;
  const DeviceCounts& calls = run.report.device_calls;
  Json json;
  json["peak_allocated_bytes"] = books.allocated.peak;
  json["peak_reserved_bytes"] = books.reserved.peak;
  json["reserved_bytes"] = books.reserved.current;
  json["segments_peak"] = books.segments.peak;
  json["segments_allocated"] = books.segments.allocated;
  json["alloc_retries"] = books.num_alloc_retries;
  json["ooms"] = books.num_ooms;
  json["device_used_bytes"] = (run.free_before - run.free_after).count();
  json["program_ops"] = run.report.program_ops;
  json["device_calls"] = calls.acquire + calls.release + calls.reserve + calls.unreserve +
                         calls.create + calls.destroy + calls.map + calls.unmap +
                         calls.pool_allocate + calls.pool_free;
  json["device_time_ns"] = run.report.device_time.count();
  json["host_time_ns"] = run.host_time.count();
  json["oom"] = nullptr;
  if (run.report.oom) {
    const OomReport& oom = *run.report.oom;
    json["oom"] = {{"op_index", oom.op_index},
                   {"requested_bytes", oom.out_of_memory.requested.count()},
                   {"allocated_bytes", oom.out_of_memory.allocated.count()},
                   {"reserved_bytes", oom.out_of_memory.reserved.count()},
                   {"free_bytes", oom.out_of_memory.device_free.count()}};
  }
  return json;
}

Json comparison_json(const Comparison& comparison) {
  return {{"steps", comparison.steps},
          {"first_other_step",
           comparison.first_other_step ? Json(*comparison.first_other_step) : Json(nullptr)},
          {"same_segments", comparison.same_segments()},
          {"same_reserved", comparison.same_reserved},
          {"other_statistics", comparison.other_statistics},
          {"same_oom", comparison.same_oom},
          {"largest_device_difference_bytes", comparison.largest_device_difference.count()},
          {"allowed_device_difference_bytes", comparison.allowed_device_difference.count()},
          {"good", comparison.good()}};
}

}  // namespace peakcast
