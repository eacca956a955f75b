#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "allocators/pytorch/settings.hpp"
#include "allocators/registry.hpp"
#include "sim/app/backend.hpp"
#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/replay_json.hpp"
#include "sim/app/trace_streams.hpp"
#include "sim/core/size_text.hpp"
#include "sim/device/address_source.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/replay.hpp"
#include "sim/report/json.hpp"
#include "sim/report/table.hpp"
#include "sim/trace/byte_source.hpp"
#include "sim/trace/read_trace.hpp"
#include "sim/trace/recorded_csv.hpp"

namespace peakcast::app {
namespace {

using namespace literals;

enum class Addresses : std::uint8_t { recorded, modelled };

/// The card of the recordings (NVIDIA H100 80GB HBM3, driver 580.159.04, cudaGetDeviceProperties),
/// used when a trace does not say which card it ran on.
DeviceSpec usual_device() {
  return {.name = "NVIDIA H100 80GB HBM3",
          .total = Bytes{85'017'493'504},
          .granularity = 2_MiB,
          .compute_major = 9,
          .compute_minor = 0};
}

/// Where replay and recording first differ.
struct Mismatch {
  std::size_t event{};  ///< index into Recording::events; its size when the recording ended first
  std::optional<AllocatorEvent> recorded{};
  std::optional<AllocatorEvent> replayed{};
};

/// Hears what the policy does: keeps it for --events-out, compares it for --verify.
class Listener final : public EventSink {
 public:
  Listener(const Trace& trace, bool keeps, bool compares, bool with_addresses)
      : recorded_{trace.recording ? &trace.recording->events : nullptr},
        keeps_{keeps},
        compares_{compares},
        with_addresses_{with_addresses} {}

  void on_event(const AllocatorEvent& event) override {
    if (keeps_) {
      kept_.events.push_back(event);
    }
    if (!compares_) {
      return;
    }
    skip_snapshots();
    if (next_ < recorded_->size() && same((*recorded_)[next_], event)) {
      ++matched_;
    } else if (!mismatch_) {
      mismatch_ = Mismatch{next_, std::nullopt, event};
      if (next_ < recorded_->size()) {
        mismatch_->recorded = (*recorded_)[next_];
      }
    }
    next_ += next_ < recorded_->size() ? 1U : 0U;
  }

  /// After the run: entries that the replay did not come to are a mismatch too.
  void finish() {
    if (!compares_) {
      return;
    }
    skip_snapshots();
    if (next_ < recorded_->size() && !mismatch_) {
      mismatch_ = Mismatch{next_, (*recorded_)[next_], std::nullopt};
    }
  }

  [[nodiscard]] std::int64_t events() const {
    std::int64_t count = 0;
    for (const AllocatorEvent& event : *recorded_) {
      count += event.action != Action::snapshot ? 1 : 0;
    }
    return count;
  }
  [[nodiscard]] std::int64_t matched() const { return matched_; }
  [[nodiscard]] const std::optional<Mismatch>& mismatch() const { return mismatch_; }
  [[nodiscard]] const Recording& kept() const { return kept_; }

 private:
  void skip_snapshots() {
    while (next_ < recorded_->size() && (*recorded_)[next_].action == Action::snapshot) {
      ++next_;
    }
  }
  [[nodiscard]] bool same(const AllocatorEvent& a, const AllocatorEvent& b) const {
    // An oom's address is the free memory of a card that others may have used too.
    const bool address = with_addresses_ && a.action != Action::oom;
    return a.action == b.action && a.size == b.size && a.stream == b.stream &&
           (!address || a.address == b.address);
  }

  const std::vector<AllocatorEvent>* recorded_;
  bool keeps_;
  bool compares_;
  bool with_addresses_;
  Recording kept_{};
  std::size_t next_{};
  std::int64_t matched_{};
  std::optional<Mismatch> mismatch_{};
};

Json event_json(const std::optional<AllocatorEvent>& event, const Trace& trace) {
  if (!event) {
    return nullptr;
  }
  Json out;
  out["action"] = to_string(event->action);
  out["address"] = fmt::format("{:x}", event->address.value());
  out["size_bytes"] = event->size.count();
  out["stream"] = fmt::format("{:x}", trace.streams.at(event->stream.value));
  return out;
}

std::string event_text(const std::optional<AllocatorEvent>& event, const Trace& trace) {
  return event ? fmt::format("{},{:x},{},{:x}", to_string(event->action), event->address.value(),
                             event->size.count(), trace.streams.at(event->stream.value))
               : "nothing";
}

struct Difference {
  std::string name{};
  std::int64_t recorded{};
  std::int64_t replayed{};
};

/// The recording's final statistics that a policy's books know and that came out otherwise.
std::vector<Difference> final_differences(const Recording& recording, const Statistics& now) {
  struct Row {
    std::string_view metric;
    const Level* level;
  };
  const std::array<Row, 7> rows{{{"requested_bytes", &now.requested},
                                 {"allocated_bytes", &now.allocated},
                                 {"active_bytes", &now.active},
                                 {"reserved_bytes", &now.reserved},
                                 {"inactive_split_bytes", &now.inactive_split},
                                 {"segment", &now.segments},
                                 {"allocation", &now.allocations}}};
  const auto value_of = [&](const std::string& name) -> std::optional<std::int64_t> {
    for (const Row& row : rows) {
      const std::string prefix = std::string{row.metric} + ".all.";
      if (name == prefix + "current") {
        return row.level->current;
      }
      if (name == prefix + "peak") {
        return row.level->peak;
      }
      if (name == prefix + "allocated") {
        return row.level->allocated;
      }
      if (name == prefix + "freed") {
        return row.level->freed();
      }
    }
    if (name == "num_alloc_retries") {
      return now.num_alloc_retries;
    }
    if (name == "num_ooms") {
      return now.num_ooms;
    }
    if (name == "num_device_alloc") {
      return now.num_device_alloc;
    }
    if (name == "num_device_free") {
      return now.num_device_free;
    }
    return std::nullopt;
  };
  std::vector<Difference> out;
  for (const RecordedFigure& figure : recording.final_statistics) {
    const auto value = value_of(figure.name);
    if (value && *value != figure.value) {
      out.push_back({figure.name, figure.value, *value});
    }
  }
  return out;
}

/// How many segments of the recording's final snapshot have no equal in the replay's heap (address
/// apart when it was modelled), plus those of the replay that are too many.
std::int64_t segment_differences(const Recording& recording, const HeapView& heap,
                                 bool with_addresses) {
  if (recording.segments.empty()) {
    return 0;
  }
  using Shape = std::vector<std::int64_t>;
  std::vector<Shape> was;
  std::vector<Shape> is;
  for (const RecordedSegment& segment : recording.segments) {
    Shape shape{with_addresses ? static_cast<std::int64_t>(segment.address.value()) : 0,
                segment.stream.value, segment.size.count()};
    for (const RecordedBlock& block : segment.blocks) {
      shape.insert(shape.end(), {block.size.count(), block.active ? block.requested.count() : 0,
                                 block.allocated ? 2 : (block.active ? 1 : 0)});
    }
    was.push_back(std::move(shape));
  }
  for (const SegmentView& segment : heap.segments) {
    Shape shape{with_addresses ? static_cast<std::int64_t>(segment.address.value()) : 0,
                segment.stream.value, segment.size.count()};
    for (const BlockView& block : segment.blocks) {
      const bool in_use = block.state != BlockState::free;
      shape.insert(shape.end(), {block.size.count(), in_use ? block.requested.count() : 0,
                                 block.state == BlockState::allocated ? 2 : (in_use ? 1 : 0)});
    }
    is.push_back(std::move(shape));
  }
  std::sort(was.begin(), was.end());
  std::sort(is.begin(), is.end());
  std::vector<Shape> apart;
  std::set_symmetric_difference(was.begin(), was.end(), is.begin(), is.end(),
                                std::back_inserter(apart));
  return static_cast<std::int64_t>(apart.size());
}

struct Flags {
  std::string trace{};
  std::string policy{"pytorch"};
  std::optional<std::string> alloc_conf{};
  std::optional<Bytes> limit{};
  std::optional<Bytes> capacity{};
  Addresses addresses{};
  std::string events_out{};
  std::optional<std::int64_t> device{};
  bool verify{};
};

/// "2.11.0+cu130" -> "2.11"; "" when it has another form.
std::string release_of(std::string_view framework) {
  const std::size_t first = framework.find('.');
  if (first == std::string_view::npos) {
    return "";
  }
  const std::size_t second = framework.find('.', first + 1);
  return std::string{framework.substr(0, second)};
}

/// Where the flag names none: what the settings ask for, of the recording's own release where that
/// is known.
std::string policy_for(const Flags& flags, const std::string& alloc_conf, const Trace& trace,
                       bool given, const Console& console) {
  if (given) {
    return flags.policy;
  }
  std::string release = trace.recording ? release_of(trace.recording->framework) : "";
  if (!release.empty() && !pytorch::find_version(release)) {
    console.warn(
        fmt::format("PyTorch {} recorded this; the newest release known is used", release));
    release.clear();
  }
  if (asks_for_driver_pool(alloc_conf, release)) {
    return std::string{kDriverPool};
  }
  return release.empty() ? flags.policy : flags.policy + "@" + release;
}

}  // namespace

int run_replay(std::span<const std::string> words) {
  static constexpr std::array<std::pair<std::string_view, Addresses>, 2> kAddresses{
      {{"recorded", Addresses::recorded}, {"modelled", Addresses::modelled}}};
  Flags flags;
  CommandLine line{{"replay", "Run a trace through an allocator policy",
                    "replay run.csv.zst --alloc-conf expandable_segments:True --limit 24GiB"}};
  line.positional("TRACE", flags.trace, "the trace, of any known format; - is stdin");
  line.text("policy", "NAME", flags.policy,
            "a policy of 'peakcast policies'; of a recording's own release where it says which");
  line.text("alloc-conf", "STRING", flags.alloc_conf,
            "PyTorch's settings string; what was recorded unless given");
  line.size("limit", flags.limit, "the allocator's own limit; what was recorded unless given");
  line.size("capacity", flags.capacity, "the card's memory; what was recorded unless given");
  line.choice<Addresses>("addresses", kAddresses, flags.addresses,
                         "where device memory lies, if the trace knows");
  line.text("events-out", "FILE", flags.events_out,
            "write what the policy did (action,addr,size,stream); - is stdout, without the report");
  line.number("device", flags.device, "whose entries, of a snapshot with several devices");
  line.flag("verify", flags.verify, "compare with what was recorded; a mismatch exits 1");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  if (flags.policy.find(',') != std::string::npos) {
    throw Fault{"replay takes one policy; 'peakcast compare' takes several"};
  }
  const Console& console = line.console();
  const LoadedTrace loaded = value_or_throw(read_trace(flags.trace, {.device = flags.device}));
  const Trace& trace = loaded.trace;

  const bool has_calls =
      trace.recording && std::any_of(trace.recording->events.begin(), trace.recording->events.end(),
                                     [](const AllocatorEvent& e) {
                                       return e.action == Action::segment_alloc ||
                                              e.action == Action::segment_map;
                                     });
  if (!has_calls && line.given("addresses") && flags.addresses == Addresses::recorded) {
    throw Fault{flags.trace + ": holds no recorded addresses of device memory"};
  }
  if (flags.verify && !trace.recording) {
    throw Fault{flags.trace + ": holds no recorded allocator events to verify against"};
  }
  if (trace.recording && trace.recording->head_lost) {
    console.warn("the recording began after the program: the replay is not exact");
  }
  const bool recorded_addresses = has_calls && flags.addresses == Addresses::recorded;

  PolicyOptions options;
  // The recorded settings are PyTorch's: other policies have no use for them.
  const bool is_pytorch = flags.policy.substr(0, flags.policy.find_first_of("@+")) == "pytorch";
  options.alloc_conf = flags.alloc_conf                ? *flags.alloc_conf
                       : trace.recording && is_pytorch ? trace.recording->alloc_conf
                                                       : "";
  options.limit = flags.limit       ? flags.limit
                  : trace.recording ? trace.recording->limit
                                    : std::nullopt;

  DeviceSpec device_spec = usual_device();
  if (trace.recording && trace.recording->device_total) {
    device_spec.name = "recorded";
    device_spec.total = *trace.recording->device_total;
  }
  device_spec.total = flags.capacity.value_or(device_spec.total);

  const std::string policy_name =
      policy_for(flags, options.alloc_conf, trace, line.given("policy"), console);
  if (policy_name == kDriverPool && asks_for_driver_pool(options.alloc_conf, "")) {
    options.alloc_conf.clear();  // it said which allocator runs, and no more
  }
  TraceStreams streams{trace, needs_time(policy_name)};
  std::optional<RecordedAddresses> addresses;
  if (recorded_addresses) {
    addresses.emplace(*trace.recording);
  }
  SimulatedDevice device{{.spec = device_spec,
                          .addresses = addresses ? &*addresses : nullptr,
                          .streams = streams.device_streams()}};
  auto policy = make_policy(policy_name, device, streams.streams(), options);
  if (!policy) {
    throw Fault{policy.error()};
  }
  Allocator& allocator = **policy;

  Listener listener{trace, !flags.events_out.empty(), flags.verify, recorded_addresses};
  if (flags.verify || !flags.events_out.empty()) {
    allocator.set_sink(&listener);
  }
  const ReplayReport report =
      replay(trace, allocator, device, streams.options(addresses ? &*addresses : nullptr));
  if (report.fault) {
    throw Fault{*report.fault};
  }
  if (report.fault) {
    throw Fault{*report.fault};
  }
  listener.finish();
  if (!flags.events_out.empty()) {
    std::string bytes = value_or_throw(compressed_for(
        flags.events_out, recorded_csv(listener.kept(), trace.streams, trace.strings)));
    static_cast<void>(value_or_throw(write_file(flags.events_out, bytes, true)));
  }

  const Statistics& statistics = report.statistics;
  bool passed = true;
  Json verify;
  std::vector<Difference> differences;
  std::int64_t segments_apart = 0;
  if (flags.verify) {
    differences = final_differences(*trace.recording, statistics);
    segments_apart = segment_differences(*trace.recording, allocator.view(), recorded_addresses);
    verify["events"] = listener.events();
    verify["matched"] = listener.matched();
    verify["first_mismatch"] = nullptr;
    if (const auto& mismatch = listener.mismatch()) {
      verify["first_mismatch"] = {{"event", mismatch->event},
                                  {"recorded", event_json(mismatch->recorded, trace)},
                                  {"replayed", event_json(mismatch->replayed, trace)}};
    }
    verify["addresses_compared"] = recorded_addresses;
    verify["final_differences"] = Json::array();
    for (const Difference& difference : differences) {
      verify["final_differences"].push_back({{"name", difference.name},
                                             {"recorded", difference.recorded},
                                             {"replayed", difference.replayed}});
    }
    verify["segments_different"] = segments_apart;
    passed = !listener.mismatch() && differences.empty() && segments_apart == 0;
  }

  const int status = passed ? kFits : kDoesNotFit;
  if (flags.events_out == "-") {
    return status;
  }
  if (console.format == Format::json) {
    Json out = report_head("replay", line.echo());
    out["inputs"]["settings"] = {
        {"alloc_conf", options.alloc_conf},
        {"limit_bytes", bytes_or_null(options.limit)},
        {"capacity_bytes", device_spec.total.count()},
        {"addresses", recorded_addresses ? "recorded" : "modelled"},
        {"sidecar", loaded.sidecar.empty() ? Json(nullptr) : Json(loaded.sidecar)}};
    out["policy"] = policy_name;
    out["peak"] = peak_json(statistics);
    out["final"] = final_json(statistics);
    out["counts"] = counts_json(statistics);
    out["oom"] = oom_json(report, trace, device_spec, options.limit);
    out["fragmentation"] = fragmentation(statistics);
    out["program_ops"] = report.program_ops;
    out["allocator_driver_time_ns"] = report.device_time.count();
    if (addresses) {
      // Where the policy first asked the device for something else than the recorded one did, and
      // how often the recorded card refused what nothing in the trace explains.
      out["addresses"] = {{"parted_at_event",
                           addresses->parted_at() ? Json(*addresses->parted_at()) : Json(nullptr)},
                          {"recorded_refusals", addresses->refusals().size()}};
    }
    if (flags.verify) {
      out["verify"] = verify;
    }
    write_stdout(json_text(out));
    return status;
  }

  Table table{{{"", Table::Align::left}, {"peak"}, {"final"}}};
  Table csv{{{"quantity", Table::Align::left}, {"peak_bytes"}, {"final_bytes"}}};
  const auto add = [&](const char* name, const Level& level) {
    table.add_row({name, size_text(Bytes{level.peak}), size_text(Bytes{level.current})});
    csv.add_row({name, std::to_string(level.peak), std::to_string(level.current)});
  };
  add("requested", statistics.requested);
  add("allocated", statistics.allocated);
  add("active", statistics.active);
  add("reserved", statistics.reserved);
  add("inactive split", statistics.inactive_split);
  if (console.format == Format::csv) {
    write_stdout(csv.csv());
    return status;
  }
  std::string text =
      fmt::format("{} on {}{}{}\n\n{}\n", policy_name, flags.trace,
                  options.alloc_conf.empty() ? "" : ", " + options.alloc_conf,
                  options.limit ? ", limit " + size_text(*options.limit) : "", table.text());
  text += fmt::format("fragmentation {:.2f} % of the reserved peak\n",
                      100.0 * fragmentation(statistics));
  text += fmt::format(
      "{} allocations, {} frees; {} segments allocated, {} freed; {} retries, {} out of memory\n",
      count_text(statistics.allocations.allocated), count_text(statistics.allocations.freed()),
      statistics.segments.allocated, statistics.segments.freed(), statistics.num_alloc_retries,
      statistics.num_ooms);
  if (report.oom) {
    text += fmt::format(
        "\nfirst out of memory at op {}{}{}:\n{}\n", report.oom->op_index,
        report.oom->iteration >= 0 ? fmt::format(", iteration {}", report.oom->iteration) : "",
        report.oom->phase.empty() ? "" : ", " + report.oom->phase,
        oom_message(report.oom->out_of_memory, device_spec, options.limit));
  }
  if (flags.verify) {
    text += fmt::format("\nverify: {} of {} recorded events matched{}\n",
                        count_text(listener.matched()), count_text(listener.events()),
                        recorded_addresses ? ", addresses included" : ", addresses modelled");
    if (const auto& mismatch = listener.mismatch()) {
      text += fmt::format("first mismatch at event {}:\n  recorded {}\n  replayed {}\n",
                          mismatch->event, event_text(mismatch->recorded, trace),
                          event_text(mismatch->replayed, trace));
    }
    for (const Difference& difference : differences) {
      text += fmt::format("final {}: recorded {}, replayed {}\n", difference.name,
                          difference.recorded, difference.replayed);
    }
    if (segments_apart > 0) {
      text += fmt::format("{} segments of the final snapshot differ\n", segments_apart);
    }
  }
  write_stdout(text);
  return status;
}

}  // namespace peakcast::app
