#include "workloads/capture/captured_run.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "sim/core/text_file.hpp"
#include "sim/trace/derive_program.hpp"
#include "sim/trace/stream_table.hpp"
#include "sim/trace/validate.hpp"
#include "workloads/capture/log.hpp"

namespace peakcast::capture {
namespace {

/// A log, taken apart: its records without the texts, and these.
struct Log {
  LogHead head{};
  std::vector<Record> records{};
  std::vector<std::string> strings{};
};

Error bad_log(const std::filesystem::path& file, const std::string& why) {
  return Error{ErrorCode::invalid_input, file.string() + ": " + why, std::nullopt};
}

Expected<Log> parse(const std::filesystem::path& file, std::string_view bytes) {
  Log log;
  if (bytes.size() < sizeof log.head) {
    return bad_log(file, "is cut off");
  }
  std::memcpy(&log.head, bytes.data(), sizeof log.head);
  if (log.head.magic != kLogMagic) {
    return bad_log(file, "is no log of a capture");
  }
  std::size_t at = sizeof log.head;
  while (at + sizeof(Record) <= bytes.size()) {
    Record record;
    std::memcpy(&record, bytes.data() + at, sizeof record);
    at += sizeof record;
    if (record.kind == RecordKind::none) {
      break;
    }
    if (record.kind != RecordKind::text) {
      log.records.push_back(record);
      continue;
    }
    const auto length = static_cast<std::size_t>(record.value);
    if (record.value < 0 || length > bytes.size() - at || record.id != log.strings.size()) {
      return bad_log(file, "holds a broken text");
    }
    log.strings.emplace_back(bytes.substr(at, length));
    at += (length + sizeof(Record) - 1) / sizeof(Record) * sizeof(Record);
  }
  for (const Record& record : log.records) {
    // record_event and its like number events by `id`, all others that use it number strings.
    const bool has_string =
        record.kind == RecordKind::launch || record.kind == RecordKind::collective ||
        record.kind == RecordKind::copy || record.kind == RecordKind::mark ||
        record.kind == RecordKind::stub || record.kind == RecordKind::assumed ||
        record.kind == RecordKind::out_of_memory || record.kind == RecordKind::framework;
    if (has_string && record.id >= log.strings.size()) {
      return bad_log(file, "names a text that it does not hold");
    }
  }
  return log;
}

/// An op that is none of the allocator's, and before which of its events it comes.
struct CardOp {
  std::size_t before_event{};
  Op op{};
  std::uint32_t label{};  ///< string's index + 1; 0: none
};

/// Where the library of PyTorch's allocator records events that are not the allocator's: its guards
/// do, for autograd, whose streams wait for one another. No stream ever waits for an event of the
/// allocator's own, so a place is a guard's when one of its events was waited for.
std::set<std::uint64_t> guard_sites(const Log& log) {
  std::set<std::uint64_t> sites;
  std::map<std::uint32_t, std::uint64_t> recorded_at;
  for (const Record& record : log.records) {
    if (record.kind == RecordKind::record_event) {
      recorded_at[record.id] = (record.flags & kByAllocator) != 0 ? record.address : 0;
    } else if (const auto event = recorded_at.find(record.id);
               record.kind == RecordKind::wait_event && event != recorded_at.end() &&
               event->second != 0) {
      sites.insert(event->second);
    }
  }
  return sites;
}

/// Makes the trace of one card from the records of its log.
class Builder {
 public:
  Builder(const Log& log, int card)
      : log_{log}, card_{static_cast<std::uint8_t>(card)}, guard_sites_{guard_sites(log)} {}

  Expected<CapturedRun> build(const std::string& source) {
    run_.process = log_.head.process;
    run_.rank = log_.head.rank;
    run_.card = card_;
    run_.trace.source = source;
    run_.trace.recording.emplace();
    recording().device_total = Bytes{log_.head.total};
    for (const Record& record : log_.records) {
      add(record);
    }
    finish_streams();
    if (const auto bad = derive_program(run_.trace, true)) {
      return Error{
          ErrorCode::invalid_input,
          source + ": the allocator's event " + std::to_string(bad->event) + " " + bad->why,
          std::nullopt};
    }
    first_mark_ = strings_.index("iteration 0");
    strings_of_trace_ = strings_.take();
    run_.recorded = run_.trace;
    interleave(run_.recorded, false);
    interleave(run_.trace, true);
    for (const Trace* const trace : {&run_.trace, &run_.recorded}) {
      if (const auto fault = first_fault(*trace)) {
        return Error{ErrorCode::invalid_input,
                     source + ": op " + std::to_string(fault->op) + " " + fault->why, std::nullopt};
      }
    }
    return std::move(run_);
  }

 private:
  Recording& recording() { return *run_.trace.recording; }

  StreamId stream_of(const Record& record) {
    return streams_.id(record.stream).value_or(StreamId{});
  }

  /// A string of the log in the trace's table.
  std::uint32_t string_of(std::uint32_t id) { return strings_.index(log_.strings[id]); }

  void add(const Record& record) {
    if (record.kind == RecordKind::framework) {
      recording().framework = log_.strings[record.id];
    }
    if (record.kind == RecordKind::stub) {
      run_.stubs.push_back(log_.strings[record.id]);
    }
    if (record.kind == RecordKind::assumed) {
      add_assumption(log_.strings[record.id]);
    }
    if (record.device != card_) {
      return;
    }
    if (record.kind == RecordKind::out_of_memory && run_.ran_out_at.empty()) {
      run_.ran_out_at = log_.strings[record.id];
    }
    if (record.kind == RecordKind::allocator_event) {
      add_event(record);
      return;
    }
    if (record.kind == RecordKind::category) {
      name_buffer(record);
      return;
    }
    if (record.kind == RecordKind::mark) {
      // An optimizer steps: what it allocates is no activation.
      kept_.clear();
      in_step_ = static_cast<MarkKind>(record.flags) == MarkKind::phase;
    }
    if (record.kind == RecordKind::record_event && (record.flags & kByAllocator) != 0 &&
        !guard_sites_.contains(record.address)) {
      // The allocator marks the end of what other streams do with the buffer just dropped.
      uses_[last_drop_].push_back(stream_of(record));
      return;
    }
    if (const auto op = card_op(record)) {
      card_ops_.push_back(*op);
    }
  }

  void add_event(const Record& record) {
    const auto action = static_cast<Action>(record.flags);
    if (action == Action::free_requested) {
      last_drop_ = recording().events.size();
    }
    // Microseconds of the emulated clock, 32 bits of them.
    constexpr std::int64_t kTurn = std::int64_t{1} << 32;
    std::int64_t time = times_.empty() ? 0 : times_.back();
    time += (static_cast<std::int64_t>(record.id) - time % kTurn + kTurn) % kTurn;
    times_.push_back(time);
    categorize(record, action);
    recording().events.push_back(
        {Address{record.address}, Bytes{record.value}, stream_of(record), action});
  }

  /// What the optimizers name is named (name_buffer). Of the rest: what the program's own thread
  /// allocates outside a step and what still lives when another thread, autograd's, begins is an
  /// activation.
  void categorize(const Record& record, Action action) {
    const std::size_t event = recording().events.size();
    if (record.thread != 0 && !kept_.empty()) {
      for (const auto& [address, allocation] : kept_) {
        categories_[allocation] = Category::activation;
      }
      kept_.clear();
    }
    if (action == Action::alloc) {
      live_[record.address] = event;
      if (record.thread == 0 && !in_step_) {
        kept_[record.address] = event;
      }
    } else if (action == Action::free_requested) {
      live_.erase(record.address);
      kept_.erase(record.address);
    }
  }

  void name_buffer(const Record& record) {
    const auto found = live_.find(record.address);
    if (found != live_.end()) {
      categories_[found->second] = static_cast<Category>(record.flags & kCategoryMask);
    }
  }

  /// A slot of the trace's own: most of the log's events are the allocator's, which no op names.
  std::uint32_t slot_of(std::uint32_t event) {
    const auto [slot, is_new] = slots_.try_emplace(event, run_.trace.event_slots);
    run_.trace.event_slots += is_new ? 1 : 0;
    return slot->second;
  }

  std::optional<CardOp> card_op(const Record& record) {
    CardOp out{.before_event = recording().events.size(), .op = {}};
    Op& op = out.op;
    op.value = record.value;
    switch (record.kind) {
      case RecordKind::launch:
      case RecordKind::copy:
        op.kind = OpKind::launch;
        out.label = string_of(record.id) + 1;
        break;
      case RecordKind::collective:
        op.kind = OpKind::collective;
        out.label = string_of(record.id) + 1;
        break;
      case RecordKind::record_event:
        op.kind = OpKind::record_event;
        op.id = slot_of(record.id);
        break;
      case RecordKind::wait_event:
        op.kind = OpKind::wait_event;
        op.id = slot_of(record.id);
        break;
      case RecordKind::host_wait:
        op.kind = OpKind::host_wait;
        op.id = slot_of(record.id);
        break;
      case RecordKind::synchronize:
        op.kind = OpKind::synchronize;
        op.flags = (record.flags & kWholeDevice) != 0 ? kAllStreams : std::uint8_t{};
        break;
      case RecordKind::host_work:
        op.kind = OpKind::host_work;
        break;
      case RecordKind::mark:
        op.kind = OpKind::mark;
        op.value = 0;
        op.id = string_of(record.id);
        op.flags = record.flags;
        return out;
      default:
        return std::nullopt;
    }
    if (op.kind == OpKind::record_event || op.kind == OpKind::wait_event ||
        op.kind == OpKind::host_wait) {
      op.value = 0;
    }
    op.stream = static_cast<std::uint16_t>(stream_of(record).value);
    return out;
  }

  void add_assumption(const std::string& text) {
    const std::size_t first = text.find('\t');
    const std::size_t second = text.find('\t', first + 1);
    if (first == std::string::npos || second == std::string::npos) {
      return;
    }
    const Assumption made{text.substr(0, first), text.substr(first + 1, second - first - 1),
                          text.substr(second + 1), 0};
    for (Assumption& known : run_.assumed) {
      if (known.site == made.site && known.question == made.question &&
          known.answer == made.answer) {
        ++known.count;
        return;
      }
    }
    run_.assumed.push_back(made);
    run_.assumed.back().count = 1;
  }

  void finish_streams() {
    std::vector<StreamId> names;
    run_.trace.streams = streams_.take(names);
    for (AllocatorEvent& event : recording().events) {
      event.stream = names[event.stream.value];
    }
    for (CardOp& op : card_ops_) {
      op.op.stream = static_cast<std::uint16_t>(names[op.op.stream].value);
    }
    for (auto& [event, streams] : uses_) {
      for (StreamId& stream : streams) {
        stream = names[stream.value];
      }
    }
    recording().times_us = times_;
  }

  /// Puts the card's ops between the program's, and streams that are known in place of unknown
  /// ones. Without `whole`, marks only.
  void interleave(Trace& trace, bool whole) {
    Recording& recorded = *trace.recording;
    const std::vector<Op> program = std::exchange(trace.ops, {});
    const std::vector<std::uint32_t> event_of_op = std::exchange(recorded.event_of_op, {});
    trace.labels.clear();
    trace.times_us.clear();
    std::int64_t time = 0;
    const auto put = [&](const Op& op, std::uint32_t event, std::uint32_t label) {
      if (event != kNoEvent && event < times_.size()) {
        time = times_[event];
      }
      trace.ops.push_back(op);
      recorded.event_of_op.push_back(event);
      trace.labels.push_back(label);
      trace.times_us.push_back(time);
    };
    // The program's begin is its first iteration's; each step's end begins another.
    if (std::any_of(card_ops_.begin(), card_ops_.end(), [](const CardOp& card_op) {
          return card_op.op.kind == OpKind::mark && mark_kind_of(card_op.op) == MarkKind::iteration;
        })) {
      put({.value = 0, .id = first_mark_, .stream = 0, .kind = OpKind::mark, .flags = 0}, kNoEvent,
          0);
    }
    auto card_op = card_ops_.begin();
    const auto put_card_ops = [&](std::size_t event) {
      for (; card_op != card_ops_.end() && card_op->before_event <= event; ++card_op) {
        if (whole || card_op->op.kind == OpKind::mark) {
          put(card_op->op, kNoEvent, card_op->label);
        }
      }
    };
    std::set<std::uint32_t> known_buffers;  // dropped, held by streams that are known
    for (std::size_t i = 0; i < program.size(); ++i) {
      Op op = program[i];
      const std::uint32_t event = event_of_op[i];
      if (const auto named = categories_.find(event);
          op.kind == OpKind::allocate && named != categories_.end()) {
        op.flags |= static_cast<std::uint8_t>(named->second);
      }
      if (event != kNoEvent) {
        put_card_ops(event);
      }
      if (op.kind == OpKind::complete && known_buffers.erase(op.id) != 0) {
        continue;  // the streams tell
      }
      // The recording shows that a stream held a buffer only where another of the allocator's
      // events came between its drop and its return.
      const bool unknown =
          op.kind == OpKind::record_stream && trace.streams[op.stream] == kUnknownStream;
      const bool unseen = op.kind == OpKind::free && !known_buffers.contains(op.id);
      const auto uses = whole && (unknown || unseen) ? uses_.find(event) : uses_.end();
      if (uses == uses_.end()) {
        put(op, event, 0);
        continue;
      }
      if (unknown) {
        known_buffers.insert(op.id);
      }
      for (const StreamId stream : uses->second) {
        put({.value = 0,
             .id = op.id,
             .stream = static_cast<std::uint16_t>(stream.value),
             .kind = OpKind::record_stream,
             .flags = 0},
            event, 0);
      }
      if (unseen) {
        put(op, event, 0);
      }
    }
    put_card_ops(std::size_t{1} << 40);
    drop_unknown_stream(trace);
    trace.strings = strings_of_trace_;
    if (!whole) {
      trace.event_slots = 0;
    }
  }

  static void drop_unknown_stream(Trace& trace) {
    if (trace.streams.back() != kUnknownStream) {
      return;
    }
    const auto last = static_cast<std::uint16_t>(trace.streams.size() - 1);
    if (std::none_of(trace.ops.begin(), trace.ops.end(),
                     [&](const Op& op) { return op.stream == last; })) {
      trace.streams.pop_back();
    }
  }

  const Log& log_;
  std::uint8_t card_;
  std::set<std::uint64_t> guard_sites_;
  CapturedRun run_{};
  StreamTable streams_{};
  StringTable strings_{};
  std::vector<std::string> strings_of_trace_{};
  std::uint32_t first_mark_{};
  std::map<std::uint32_t, std::uint32_t> slots_{};  ///< of the log's events
  std::vector<CardOp> card_ops_{};
  std::vector<std::int64_t> times_{};
  std::map<std::size_t, std::vector<StreamId>> uses_{};  ///< by the event of the drop
  std::size_t last_drop_{};
  std::map<std::uint64_t, std::size_t> live_{};   ///< address -> the event of its allocation
  std::map<std::uint64_t, std::size_t> kept_{};   ///< of these, what the forward pass may keep
  std::map<std::size_t, Category> categories_{};  ///< by the event of the allocation
  bool in_step_{};
};

}  // namespace

Expected<std::vector<CapturedRun>> read_log(const std::filesystem::path& file,
                                            const std::string& source) {
  const Expected<std::string> bytes =
      read_text_file(file.string(), std::filesystem::file_size(file));
  if (!bytes) {
    return bytes.error();
  }
  const Expected<Log> log = parse(file, bytes.value());
  if (!log) {
    return log.error();
  }
  std::set<int> cards;
  for (const Record& record : log.value().records) {
    if (record.kind == RecordKind::allocator_event || record.kind == RecordKind::driver_allocate) {
      cards.insert(record.device);
    }
  }
  std::vector<CapturedRun> runs;
  for (const int card : cards) {
    Expected<CapturedRun> run = Builder{log.value(), card}.build(source);
    if (!run) {
      return run.error();
    }
    runs.push_back(std::move(run).value());
  }
  return runs;
}

Expected<std::vector<CapturedRun>> read_logs(const std::filesystem::path& directory,
                                             const std::string& source) {
  std::vector<CapturedRun> all;
  for (const auto& entry : std::filesystem::directory_iterator{directory}) {
    if (entry.path().extension() != ".log") {
      continue;
    }
    Expected<std::vector<CapturedRun>> runs = read_log(entry.path(), source);
    if (!runs) {
      return runs.error();
    }
    std::move(runs.value().begin(), runs.value().end(), std::back_inserter(all));
  }
  std::sort(all.begin(), all.end(), [](const CapturedRun& a, const CapturedRun& b) {
    return std::tie(a.rank, a.process, a.card) < std::tie(b.rank, b.process, b.card);
  });
  return all;
}

}  // namespace peakcast::capture
