#include "tests/support/recorded_replay.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <sstream>
#include <string_view>
#include <utility>

#include "allocators/pytorch/caching_allocator.hpp"
#include "sim/device/address_source.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/recorded_streams.hpp"
#include "sim/engine/replay.hpp"
#include "sim/trace/recorded_csv.hpp"
#include "tests/support/memory_stats.hpp"

namespace peakcast::support {
namespace {

using pytorch::CachingAllocator;

constexpr std::size_t kShown = 3;  // differences of one kind

class Keeper final : public EventSink {
 public:
  void on_event(const AllocatorEvent& event) override { kept.events.push_back(event); }
  Recording kept{};
};

/// "2.11.0+cu130" -> "2.11".
std::string release_of(std::string_view framework) {
  const std::size_t minor = framework.find('.');
  return minor == std::string_view::npos
             ? ""
             : std::string{framework.substr(0, framework.find('.', minor + 1))};
}

std::string text_of(const AllocatorEvent& event) {
  std::ostringstream out;
  out << to_string(event.action) << " " << std::hex << event.address.value() << std::dec << " "
      << event.size.count() << " stream " << event.stream.value;
  return out.str();
}

bool same(const AllocatorEvent& a, const AllocatorEvent& b) {
  // The address field of an oom is the free memory of a card that others used too.
  return a.action == b.action && a.size == b.size && a.stream == b.stream &&
         (a.action == Action::oom || a.address == b.address);
}

void compare_events(const std::vector<AllocatorEvent>& recorded,
                    const std::vector<AllocatorEvent>& replayed, std::vector<std::string>& out) {
  std::size_t at = 0;
  std::size_t shown = 0;
  for (std::size_t i = 0; i < recorded.size() && shown < kShown; ++i) {
    if (recorded[i].action == Action::snapshot) {
      continue;
    }
    if (at >= replayed.size() || !same(recorded[i], replayed[at])) {
      out.push_back("event " + std::to_string(i) + ": recorded " + text_of(recorded[i]) +
                    ", replayed " + (at < replayed.size() ? text_of(replayed[at]) : "nothing"));
      ++shown;
    }
    ++at;
  }
  if (shown == 0 && at != replayed.size()) {
    out.push_back(std::to_string(replayed.size() - at) + " events too many, the first " +
                  text_of(replayed[at]));
  }
}

void compare_figures(const Recording& recording, const std::vector<std::int64_t>& figures,
                     std::vector<std::string>& out) {
  const auto names = memory_stat_names();
  for (const RecordedFigure& figure : recording.final_statistics) {
    const auto at = std::find(names.begin(), names.end(), figure.name);
    if (at == names.end()) {
      if (figure.name != "max_split_size") {
        out.push_back("no figure is called " + figure.name);
      }
      continue;
    }
    const std::int64_t value = figures.at(static_cast<std::size_t>(at - names.begin()));
    if (value != figure.value) {
      out.push_back("final " + figure.name + ": recorded " + std::to_string(figure.value) +
                    ", replayed " + std::to_string(value));
    }
  }
}

std::string shape_of(const RecordedSegment& segment) {
  std::ostringstream out;
  out << std::hex << segment.address.value() << std::dec << " " << segment.size.count()
      << " stream " << segment.stream.value << ":";
  for (const RecordedBlock& block : segment.blocks) {
    out << " [" << block.size.count() << " " << block.requested.count() << " "
        << (block.allocated ? "A" : (block.active ? "P" : "-")) << "]";
  }
  return out.str();
}

std::string shape_of(const SegmentView& segment) {
  std::ostringstream out;
  out << std::hex << segment.address.value() << std::dec << " " << segment.size.count()
      << " stream " << segment.stream.value << ":";
  for (const BlockView& block : segment.blocks) {
    out << " [" << block.size.count() << " " << block.requested.count() << " "
        << (block.state == BlockState::allocated ? "A"
                                                 : (block.state == BlockState::pending ? "P" : "-"))
        << "]";
  }
  return out.str();
}

void compare_segments(const Recording& recording, const HeapView& heap,
                      std::vector<std::string>& out) {
  if (recording.segments.empty()) {
    return;
  }
  std::map<Address, std::string> recorded;
  std::map<Address, std::string> replayed;
  // What a free block was last used for is not known of one that was free when a late recording
  // began.
  for (RecordedSegment segment : recording.segments) {
    for (RecordedBlock& block : segment.blocks) {
      block.requested = recording.head_lost && !block.active ? Bytes{} : block.requested;
    }
    recorded.emplace(segment.address, shape_of(segment));
  }
  for (SegmentView segment : heap.segments) {
    for (BlockView& block : segment.blocks) {
      const bool stale = recording.head_lost && block.state == BlockState::free;
      block.requested = stale ? Bytes{} : block.requested;
    }
    replayed.emplace(segment.address, shape_of(segment));
  }
  std::size_t shown = 0;
  for (const auto& [address, shape] : recorded) {
    const auto other = replayed.find(address);
    if ((other == replayed.end() || other->second != shape) && shown++ < kShown) {
      out.push_back("final segment: recorded " + shape + ", replayed " +
                    (other == replayed.end() ? "none" : other->second));
    }
  }
  if (recorded.size() != replayed.size()) {
    out.push_back("final segments: recorded " + std::to_string(recorded.size()) + ", replayed " +
                  std::to_string(replayed.size()));
  }
}

}  // namespace

RecordedReplay replay_recording(const Trace& trace, Place place) {
  const Recording& recording = *trace.recording;
  const auto version = pytorch::find_version(release_of(recording.framework));
  const pytorch::Version& release =
      version ? version.value() : pytorch::versions().back();  // an unknown one: the newest
  const auto settings = pytorch::parse_settings(recording.alloc_conf, release);
  RecordedReplay result;
  if (!settings) {
    result.differences.push_back(to_string(settings.error()));
    return result;
  }
  RecordedStreams streams{trace};
  RecordedAddresses addresses{recording};
  const bool is_recorded = place == Place::recorded;
  SimulatedDevice device{
      {.spec = {.name = "recorded",
                .total = recording.device_total.value_or(Bytes{85'017'493'504}),  // an H100 80GB
                .granularity = Bytes{2 << 20},
                .compute_major = 9},
       .addresses = is_recorded ? &addresses : nullptr}};
  CachingAllocator allocator{
      device, streams, {.version = release, .settings = *settings, .limit = recording.limit}};
  Keeper keeper;
  allocator.set_sink(&keeper);
  const ReplayReport report =
      replay(trace, allocator, device,
             {.streams = &streams, .addresses = is_recorded ? &addresses : nullptr});

  if (is_recorded) {
    compare_events(recording.events, keeper.kept.events, result.differences);
    compare_figures(recording, memory_stats(allocator), result.differences);
    compare_segments(recording, allocator.view(), result.differences);
    result.refusals = addresses.refusals().size();
    if (addresses.parted_at() && result.differences.empty()) {
      result.differences.push_back("the device parted from the recording at event " +
                                   std::to_string(*addresses.parted_at()));
    }
  }
  result.events = recorded_csv(keeper.kept, trace.streams, trace.strings);
  result.peak_reserved = report.statistics.reserved.peak;
  result.allocated_segments = report.statistics.num_device_alloc;
  const auto figure = [&](std::string_view name) -> std::int64_t {
    for (const RecordedFigure& f : recording.final_statistics) {
      if (f.name == name) {
        return f.value;
      }
    }
    return 0;
  };
  result.recorded_peak_reserved = figure("reserved_bytes.all.peak");
  result.recorded_allocated_segments = figure("num_device_alloc");
  result.under_pressure = recording.limit.has_value() || figure("num_alloc_retries") != 0 ||
                          figure("num_ooms") != 0 || result.refusals != 0;
  return result;
}

std::string data_folder() { return PEAKCAST_TEST_DATA; }

std::optional<std::string> groundtruth_folder() {
  const char* given =
      std::getenv("PEAKCAST_GROUNDTRUTH");  // NOLINT(concurrency-mt-unsafe): one thread
  const std::string path = given != nullptr && *given != '\0' ? given : PEAKCAST_GROUNDTRUTH_BESIDE;
  return std::filesystem::is_directory(path) ? std::optional{path} : std::nullopt;
}

std::vector<std::string> recordings_in(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator{folder, none}) {
    if (entry.path().string().ends_with(".csv.zst")) {
      paths.push_back(entry.path().string());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace peakcast::support
