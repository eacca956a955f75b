#include "sim/trace/snapshot.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/core/nearest.hpp"
#include "sim/trace/derive_program.hpp"
#include "sim/trace/recorded_start.hpp"
#include "sim/trace/sidecar.hpp"
#include "sim/trace/stream_table.hpp"

namespace peakcast {
namespace {

using Kind = DataValue::Kind;

constexpr std::size_t kLongestLabel = 4096;

/// A fault of the snapshot, inside this file only.
struct Wrong {
  std::string what;
};

class Importer {
 public:
  Importer(const Document& document, std::vector<std::string>& notes)
      : document_{document}, notes_{notes} {}

  Trace run(std::optional<std::int64_t> device) {
    static const std::vector<DataValue> kNone;
    // torch.cuda.memory_snapshot() alone is the list of segments.
    const bool bare = document_.root.kind == Kind::list;
    if (!bare && document_.root.kind != Kind::dict) {
      throw Wrong{"a dict with 'device_traces' and 'segments' is needed, or a list of segments"};
    }
    const DataValue* traces = document_.find(document_.root, "device_traces");
    const DataValue* segments = bare ? &document_.root : document_.find(document_.root, "segments");
    if (segments == nullptr || (traces == nullptr && !bare)) {
      throw Wrong{segments == nullptr ? "there is no 'segments'" : "there is no 'device_traces'"};
    }
    trace_.recording.emplace();
    const auto& all_traces = bare ? kNone : list(*traces, "device_traces");
    const auto& all_segments = list(*segments, "segments");
    const std::int64_t chosen = choose(all_traces, all_segments, device);
    if (static_cast<std::uint64_t>(chosen) < all_traces.size()) {
      read_entries(all_traces[static_cast<std::size_t>(chosen)], chosen);
    }
    read_segments(all_segments, chosen);
    read_settings();
    trace_.strings = strings_.take();
    streams_.finish(trace_);
    if (auto bad = derive_program(trace_, true)) {
      throw Wrong{bad->event < trace_.recording->events.size()
                      ? fmt::format("device_traces[{}][{}]: {}", chosen, bad->event, bad->why)
                      : bad->why};
    }
    Recording& recording = *trace_.recording;
    const std::optional<Bytes> before = reserved_at_start(recording);
    recording.head_lost =
        recording.head_lost || overflowed_ || (before ? *before > Bytes{} : grows_late());
    insert_marks(trace_, marks(chosen));
    return std::move(trace_);
  }

 private:
  const std::vector<DataValue>& list(const DataValue& value, std::string_view where) const {
    if (value.kind != Kind::list) {
      throw Wrong{fmt::format("{} is no list", where)};
    }
    return document_.list(value);
  }
  std::int64_t integer(const DataValue* value, std::string_view key) const {
    if (value == nullptr || value->kind != Kind::integer) {
      throw Wrong{fmt::format("'{}' is {}", key, value == nullptr ? "missing" : "no integer")};
    }
    return value->integer;
  }
  std::string_view text(const DataValue* value, std::string_view key) const {
    if (value == nullptr || value->kind != Kind::text) {
      throw Wrong{fmt::format("'{}' is {}", key, value == nullptr ? "missing" : "no text")};
    }
    return document_.text(*value);
  }
  Bytes size(const DataValue* value, std::string_view key) const {
    const std::int64_t count = integer(value, key);
    if (count < 0 || count > kLargestSize) {
      throw Wrong{fmt::format("'{}' {} is no size up to 256 TiB", key, count)};
    }
    return Bytes{count};
  }
  Address address(const DataValue* value, std::string_view key) const {
    const std::int64_t place = integer(value, key);
    if (place <= 0 || static_cast<std::uint64_t>(place) > kLargestAddress) {
      throw Wrong{fmt::format("'{}' {} cannot be a device address", key, place)};
    }
    return Address{static_cast<std::uint64_t>(place)};
  }
  StreamId stream(const DataValue* value) {
    // Old files know no streams.
    const std::int64_t handle = value == nullptr ? 0 : integer(value, "stream");
    const auto id = streams_.id(static_cast<std::uint64_t>(handle));
    if (!id) {
      throw Wrong{"one stream too many, or a reserved handle"};
    }
    return *id;
  }

  /// The device with entries, or with segments where none has any.
  std::int64_t choose(const std::vector<DataValue>& traces, const std::vector<DataValue>& segments,
                      std::optional<std::int64_t> device) const {
    std::set<std::int64_t> with_entries;
    for (std::size_t i = 0; i < traces.size(); ++i) {
      if (!list(traces[i], fmt::format("device_traces[{}]", i)).empty()) {
        with_entries.insert(static_cast<std::int64_t>(i));
      }
    }
    if (device) {
      return *device;
    }
    const bool no_entries = with_entries.empty();
    for (std::size_t i = 0; i < segments.size() && no_entries; ++i) {
      const DataValue* on = document_.find(segments[i], "device");
      with_entries.insert(on != nullptr ? integer(on, "device") : 0);
    }
    if (with_entries.size() > 1) {
      std::string known;
      for (const std::int64_t index : with_entries) {
        known += fmt::format("{}{}", known.empty() ? "" : ", ", index);
      }
      throw Wrong{fmt::format("several devices have {} ({}): --device chooses one",
                              no_entries ? "segments" : "entries", known)};
    }
    return with_entries.empty() ? 0 : *with_entries.begin();
  }

  void read_entries(const DataValue& entries, std::int64_t device) {
    const std::vector<DataValue>& items = document_.list(entries);
    Recording& recording = *trace_.recording;
    recording.events.reserve(items.size());
    bool timed = !items.empty();
    bool labelled = false;
    for (std::size_t i = 0; i < items.size(); ++i) {
      try {
        const DataValue& entry = items[i];
        if (entry.kind != Kind::dict) {
          throw Wrong{"the entry is no dict"};
        }
        check_keys(entry);
        if (skipped(entry)) {
          continue;
        }
        recording.events.push_back(read_entry(entry));
        const DataValue* time = document_.find(entry, "time_us");
        timed = timed && time != nullptr;
        recording.times_us.push_back(time != nullptr ? integer(time, "time_us") : 0);
        const std::uint32_t label = read_label(document_.find(entry, "frames"));
        labelled = labelled || label != 0;
        recording.labels.push_back(label);
      } catch (const Wrong& wrong) {
        throw Wrong{fmt::format("device_traces[{}][{}]: {}", device, i, wrong.what)};
      }
    }
    if (!timed) {
      recording.times_us.clear();
    }
    if (!labelled) {
      recording.labels.clear();
    }
  }

  /// A mark of the program's own, which says nothing about memory (PyTorch 2.9 and later).
  [[nodiscard]] bool skipped(const DataValue& entry) const {
    const DataValue* action = document_.find(entry, "action");
    return action != nullptr && action->kind == Kind::text &&
           document_.text(*action) == "user_defined";
  }

  /// A dict is looked through for each key, and may be shared by many entries.
  void check_keys(const DataValue& value) const {
    constexpr std::size_t kMostKeys = 256;
    if (value.kind == Kind::dict && document_.dict(value).size() > kMostKeys) {
      throw Wrong{fmt::format("{} keys", document_.dict(value).size())};
    }
  }

  AllocatorEvent read_entry(const DataValue& entry) {
    AllocatorEvent event;
    const std::string_view word = text(document_.find(entry, "action"), "action");
    const auto action = action_from(word);
    if (!action) {
      std::array<std::string_view, kActionCount> names{};
      for (int i = 0; i < kActionCount; ++i) {
        names.at(static_cast<std::size_t>(i)) = to_string(static_cast<Action>(i));
      }
      throw Wrong{unknown_word("action", word, names)};
    }
    event.action = *action;
    event.size = size(document_.find(entry, "size"), "size");
    event.stream = stream(document_.find(entry, "stream"));
    const DataValue* place = document_.find(entry, "addr");
    if (event.action == Action::oom) {
      const DataValue* free = document_.find(entry, "device_free");
      event.address = Address{
          static_cast<std::uint64_t>(size(free != nullptr ? free : place, "device_free").count())};
    } else if (event.action == Action::snapshot) {
      event.address =
          Address{static_cast<std::uint64_t>(place != nullptr ? size(place, "addr").count() : 0)};
    } else {
      event.address = address(place, "addr");
    }
    if (event.action != Action::snapshot && event.size == Bytes{}) {
      throw Wrong{"'size' is 0"};
    }
    return event;
  }

  /// Frame lists are shared by the entries of one stack: each is read once.
  std::uint32_t read_label(const DataValue* frames) {
    if (frames == nullptr || frames->kind != Kind::list || document_.list(*frames).empty()) {
      return 0;
    }
    const auto [known, fresh] = label_of_list_.try_emplace(frames->index, 0);
    if (fresh) {
      std::string label;
      for (const DataValue& frame : document_.list(*frames)) {
        if (frame.kind == Kind::text) {
          label.append(label.empty() ? "" : " < ").append(document_.text(frame));
        } else {
          check_keys(frame);
          const DataValue* line = document_.find(frame, "line");
          label += fmt::format(
              "{}{} ({}:{})", label.empty() ? "" : " < ",
              text(document_.find(frame, "name"), "name").substr(0, kLongestLabel),
              text(document_.find(frame, "filename"), "filename").substr(0, kLongestLabel),
              line != nullptr && line->kind == Kind::integer ? line->integer : 0);
        }
        if (label.size() >= kLongestLabel) {
          label.resize(kLongestLabel);
          break;
        }
      }
      std::replace(label.begin(), label.end(), '\n', ' ');
      label_bytes_ += label.size();
      // Shared frames could make labels out of nothing: a real file's stay below its own size.
      constexpr std::size_t kMostLabelBytes = std::size_t{1} << 30;
      if (label_bytes_ > kMostLabelBytes) {
        throw Wrong{"the stacks make up more than 1 GiB of text"};
      }
      known->second = strings_.index(label) + 1;
    }
    return known->second;
  }

  void read_segments(const std::vector<DataValue>& items, std::int64_t device) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      try {
        const DataValue& item = items[i];
        if (item.kind != Kind::dict) {
          throw Wrong{"the segment is no dict"};
        }
        check_keys(item);
        const DataValue* on = document_.find(item, "device");
        if (on == nullptr || integer(on, "device") == device) {
          trace_.recording->segments.push_back(read_segment(item, i));
          reserved_ += trace_.recording->segments.back().size.count();
          if (reserved_ > kLargestSum) {
            throw Wrong{"the segments add up to more than 2 EiB"};
          }
        }
      } catch (const Wrong& wrong) {
        throw Wrong{fmt::format("segments[{}]: {}", i, wrong.what)};
      }
    }
    if (untiled_ > 0) {
      notes_.push_back(
          fmt::format("the blocks of {} segments do not tile them (the first: segments[{}]), as in "
                      "a file whose "
                      "addresses or sizes were changed: what they leave open counts as free",
                      untiled_, first_untiled_));
    }
    std::stable_sort(
        trace_.recording->segments.begin(), trace_.recording->segments.end(),
        [](const RecordedSegment& a, const RecordedSegment& b) { return a.address < b.address; });
  }

  RecordedSegment read_segment(const DataValue& item, std::size_t index) {
    RecordedSegment segment;
    segment.address = address(document_.find(item, "address"), "address");
    segment.size = size(document_.find(item, "total_size"), "total_size");
    segment.stream = stream(document_.find(item, "stream"));
    const DataValue* type = document_.find(item, "segment_type");
    segment.small_pool = type != nullptr && text(type, "segment_type") == "small";
    const DataValue* expandable = document_.find(item, "is_expandable");
    segment.expandable =
        expandable != nullptr && expandable->kind == Kind::boolean && expandable->integer != 0;
    segment.pool = pool(document_.find(item, "segment_pool_id"));
    const DataValue* parts = document_.find(item, "blocks");
    if (parts == nullptr) {
      throw Wrong{"'blocks' is missing"};
    }
    const std::vector<DataValue>& blocks = list(*parts, "'blocks'");
    // A list that stands for many segments could be many times what the file holds.
    constexpr std::int64_t kMostShared = std::int64_t{1} << 16;
    if (!block_lists_.insert(parts->index).second && blocks_ > kMostShared) {
      throw Wrong{"its blocks are another segment's too"};
    }
    if (!place_blocks(segment, blocks) && untiled_++ == 0) {
      first_untiled_ = index;
    }
    return segment;
  }

  /// Whether the blocks tile the segment. If not, they lie at their own addresses where those are
  /// in it, else one behind the other, and what they leave open is free; blocks that reach beyond
  /// its end make it longer.
  bool place_blocks(RecordedSegment& segment, const std::vector<DataValue>& parts) {
    Bytes at{};
    bool tiles = true;
    const auto put_gap = [&](Bytes until) {
      if (at < until) {
        tiles = false;
        segment.blocks.push_back({.size = until - at});
        at = until;
      }
    };
    for (const DataValue& part : parts) {
      check_keys(part);
      const RecordedBlock block = read_block(part);
      const DataValue* place = document_.find(part, "address");
      if (place != nullptr && place->kind == Kind::integer) {
        const auto own = static_cast<std::uint64_t>(place->integer);
        const std::uint64_t begin = segment.address.value();
        if (own > begin && own - begin < static_cast<std::uint64_t>(segment.size.count())) {
          put_gap(Bytes{static_cast<std::int64_t>(own - begin)});
        }
      }
      if (block.size == Bytes{}) {
        tiles = false;
        continue;
      }
      segment.blocks.push_back(block);
      at += block.size;
      constexpr std::int64_t kMostBlocks = std::int64_t{1} << 21;
      if (++blocks_ > kMostBlocks || at.count() > kLargestSize) {
        throw Wrong{"its blocks are too many, or hold more than 256 TiB"};
      }
    }
    put_gap(segment.size);
    tiles = tiles && at == segment.size;
    segment.size = at;
    return tiles;
  }

  /// 0 for the default pool; private ones are counted from 1 as they are met.
  std::uint32_t pool(const DataValue* id) {
    if (id == nullptr || id->kind != Kind::list || document_.list(*id).size() != 2) {
      return 0;
    }
    const std::vector<DataValue>& pair = document_.list(*id);
    const auto key =
        std::pair{integer(pair.data(), "segment_pool_id"), integer(&pair[1], "segment_pool_id")};
    if (key == std::pair<std::int64_t, std::int64_t>{0, 0}) {
      return 0;
    }
    const auto number = static_cast<std::uint32_t>(pools_.size() + 1);
    if (number > kMostPools) {
      throw Wrong{"one private pool too many"};
    }
    return pools_.try_emplace(key, number).first->second;
  }

  RecordedBlock read_block(const DataValue& part) const {
    RecordedBlock block;
    block.size = size(document_.find(part, "size"), "size");
    const DataValue* requested = document_.find(part, "requested_size");
    block.requested = requested != nullptr ? size(requested, "requested_size") : Bytes{};
    const std::string_view state = text(document_.find(part, "state"), "state");
    block.allocated = state == "active_allocated";
    block.active =
        block.allocated || state == "active_pending_free" || state == "active_awaiting_free";
    if (!block.active && state != "inactive") {
      throw Wrong{fmt::format("block state '{}' is not known", state.substr(0, 64))};
    }
    return block;
  }

  void read_settings() {
    const DataValue* settings = document_.find(document_.root, "allocator_settings");
    if (settings == nullptr) {
      // Old files and bare lists do not say; this much shows in what the allocator did.
      const Recording& recording = *trace_.recording;
      const bool expands =
          std::any_of(recording.segments.begin(), recording.segments.end(),
                      [](const RecordedSegment& segment) { return segment.expandable; }) ||
          std::any_of(recording.events.begin(), recording.events.end(),
                      [](const AllocatorEvent& e) { return e.action == Action::segment_map; });
      trace_.recording->alloc_conf = expands ? "expandable_segments:True" : "";
      return;
    }
    if (settings->kind != Kind::dict) {
      throw Wrong{"'allocator_settings' is no dict"};
    }
    if (const DataValue* conf = document_.find(*settings, "PYTORCH_CUDA_ALLOC_CONF")) {
      constexpr std::size_t kLongestConf = 4096;
      const std::string_view words = text(conf, "PYTORCH_CUDA_ALLOC_CONF");
      if (words.size() > kLongestConf) {
        throw Wrong{"'PYTORCH_CUDA_ALLOC_CONF' is longer than 4096 bytes"};
      }
      trace_.recording->alloc_conf = words;
    }
    if (const DataValue* lost = document_.find(*settings, "trace_alloc_overflowed")) {
      overflowed_ = lost->kind == Kind::boolean && lost->integer != 0;
    }
    if (trace_.recording->alloc_conf.empty()) {
      trace_.recording->alloc_conf = conf_of(*settings);
    }
  }

  /// Settings that were made by a call leave no string; the figures then say what is not default.
  std::string conf_of(const DataValue& settings) const {
    std::string conf;
    const auto add = [&](const std::string& word) { conf += (conf.empty() ? "" : ",") + word; };
    constexpr std::int64_t kMiB = std::int64_t{1} << 20;
    const DataValue* split = document_.find(settings, "max_split_size");
    if (split != nullptr && split->kind == Kind::integer && split->integer > 0 &&
        split->integer <= kLargestSize) {
      add(fmt::format("max_split_size_mb:{}", split->integer / kMiB));
    }
    const DataValue* collect = document_.find(settings, "garbage_collection_threshold");
    if (collect != nullptr && collect->kind == Kind::real && collect->real > 0 &&
        collect->real < 1) {
      add(fmt::format("garbage_collection_threshold:{}", collect->real));
    }
    const DataValue* expandable = document_.find(settings, "expandable_segments");
    if (expandable != nullptr && expandable->kind == Kind::boolean && expandable->integer != 0) {
      add("expandable_segments:True");
    }
    const DataValue* divisions = document_.find(settings, "roundup_power2_divisions");
    if (divisions != nullptr && divisions->kind == Kind::dict) {
      std::string items;
      bool any = false;
      for (std::int64_t interval = 1; interval <= 32768; interval *= 2) {
        const DataValue* value = document_.find(*divisions, std::to_string(interval));
        if (value != nullptr && value->kind == Kind::integer && value->integer >= 0) {
          items += fmt::format("{}{}:{}", items.empty() ? "" : ",", interval, value->integer);
          any = any || value->integer != 0;
        }
      }
      if (any) {
        add("roundup_power2_divisions:[" + items + "]");
      }
    }
    return conf;
  }

  std::vector<Sidecar::Mark> marks(std::int64_t device) const {
    std::vector<Sidecar::Mark> out;
    const DataValue* annotations = document_.find(document_.root, "external_annotations");
    if (annotations == nullptr || trace_.times_us.empty()) {
      return out;
    }
    const std::vector<DataValue>& items = list(*annotations, "external_annotations");
    for (std::size_t i = 0; i < items.size(); ++i) {
      try {
        const DataValue* on = document_.find(items[i], "device");
        if (text(document_.find(items[i], "stage"), "stage") == "START" &&
            (on == nullptr || integer(on, "device") == device)) {
          out.push_back({integer(document_.find(items[i], "time_us"), "time_us"),
                         std::string{text(document_.find(items[i], "name"), "name")}});
        }
      } catch (const Wrong& wrong) {
        throw Wrong{fmt::format("external_annotations[{}]: {}", i, wrong.what)};
      }
    }
    std::stable_sort(out.begin(), out.end(),
                     [](const auto& a, const auto& b) { return a.time_us < b.time_us; });
    return out;
  }

  /// Whether a block was handed out before any segment was gained.
  [[nodiscard]] bool grows_late() const {
    for (const AllocatorEvent& event : trace_.recording->events) {
      if (event.action == Action::segment_alloc || event.action == Action::segment_map) {
        return false;
      }
      if (event.action == Action::alloc) {
        return true;
      }
    }
    return false;
  }
  const Document& document_;
  Trace trace_{};
  StreamTable streams_{};
  StringTable strings_{};
  std::unordered_map<std::uint64_t, std::uint32_t> label_of_list_{};  // never iterated
  std::size_t label_bytes_{};
  bool overflowed_{};
  std::map<std::pair<std::int64_t, std::int64_t>, std::uint32_t> pools_{};  // private ones
  std::set<std::uint64_t> block_lists_{};
  std::int64_t blocks_{};    // of all segments
  std::int64_t reserved_{};  // bytes of them
  std::size_t untiled_{};    // segments
  std::size_t first_untiled_{};
  std::vector<std::string>& notes_;
};

}  // namespace

Expected<Trace> trace_of_snapshot(const Document& document, const std::string& name,
                                  std::optional<std::int64_t> device,
                                  std::vector<std::string>& notes) {
  try {
    return Importer{document, notes}.run(device);
  } catch (const Wrong& wrong) {
    return invalid_input(wrong.what, InputPosition{name});
  }
}

}  // namespace peakcast
