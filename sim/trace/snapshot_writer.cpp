#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>

#include <fmt/format.h>

#include "sim/trace/pickle_writer.hpp"
#include "sim/trace/snapshot.hpp"

namespace peakcast {
namespace {

/// A fault of the recording, inside this file only.
struct Wrong {
  std::string what;
};

class Exporter {
 public:
  explicit Exporter(const Trace& trace) : trace_{trace}, recording_{*trace.recording} {
    for (std::size_t i = 0; i < recording_.labels.size(); ++i) {
      if (recording_.events[i].action == Action::alloc) {
        label_at_[recording_.events[i].address] = recording_.labels[i];
      }
    }
  }

  std::string run() {
    out_.begin_dict();
    out_.text("segments");
    put_segments();
    out_.text("device_traces");
    out_.begin_list();
    put_entries();
    out_.end_list();
    out_.text("allocator_settings");
    put_settings();
    out_.text("external_annotations");
    put_annotations();
    out_.end_dict();
    return out_.take();
  }

 private:
  void integer(std::string_view key, std::int64_t value) {
    if (value >= std::int64_t{1} << 53) {
      throw Wrong{
          fmt::format("{} {} is beyond 2^53, which the snapshot viewer cannot hold", key, value)};
    }
    out_.text(key);
    out_.integer(value);
  }
  void text(std::string_view key, std::string_view value) {
    out_.text(key);
    out_.text(value);
  }
  void boolean(std::string_view key, bool value) {
    out_.text(key);
    out_.boolean(value);
  }
  [[nodiscard]] std::int64_t handle(StreamId stream) const {
    return static_cast<std::int64_t>(trace_.streams[stream.value]);
  }

  /// A label's frames: "name (file:line) < …"; whatever else it is becomes one frame's name.
  void put_frames(std::uint32_t label) {
    out_.text("frames");
    if (label == 0) {
      out_.begin_list();
      out_.end_list();
      return;
    }
    const auto [known, fresh] = memo_of_label_.try_emplace(label, 0);
    if (!fresh) {
      out_.recall(known->second);
      return;
    }
    out_.begin_list();
    std::string_view rest = trace_.strings[label - 1];
    for (bool more = true; more;) {
      const std::size_t cut = rest.find(" < ");
      std::string_view frame = rest.substr(0, cut);
      more = cut != std::string_view::npos;
      rest.remove_prefix(more ? cut + 3 : rest.size());
      std::string_view file;
      std::int64_t line = 0;
      const std::size_t open = frame.rfind(" (");
      const std::size_t colon = frame.rfind(':');
      if (frame.ends_with(')') && open != std::string_view::npos &&
          colon != std::string_view::npos && colon > open && frame.size() - colon < 20) {
        const std::string_view digits = frame.substr(colon + 1, frame.size() - colon - 2);
        if (!digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos) {
          for (const char c : digits) {
            line = line * 10 + (c - '0');
          }
          file = frame.substr(open + 2, colon - open - 2);
          frame = frame.substr(0, open);
        }
      }
      out_.begin_dict();
      text("name", frame);
      text("filename", file);
      integer("line", std::min(line, (std::int64_t{1} << 53) - 1));
      out_.end_dict();
    }
    out_.end_list();
    known->second = out_.remember();
  }

  void put_entries() {
    out_.begin_list();
    for (std::size_t i = 0; i < recording_.events.size(); ++i) {
      const AllocatorEvent& event = recording_.events[i];
      out_.begin_dict();
      text("action", to_string(event.action));
      integer(event.action == Action::oom ? "device_free" : "addr",
              static_cast<std::int64_t>(event.address.value()));
      integer("size", event.size.count());
      integer("stream", handle(event.stream));
      if (!recording_.times_us.empty()) {
        integer("time_us", recording_.times_us[i]);
      }
      put_frames(recording_.labels.empty() ? 0 : recording_.labels[i]);
      out_.end_dict();
    }
    out_.end_list();
  }

  void put_segments() {
    out_.begin_list();
    for (const RecordedSegment& segment : recording_.segments) {
      Bytes allocated{};
      Bytes active{};
      Bytes requested{};
      for (const RecordedBlock& block : segment.blocks) {
        allocated += block.allocated ? block.size : Bytes{};
        active += block.active ? block.size : Bytes{};
        requested += block.active ? block.requested : Bytes{};
      }
      out_.begin_dict();
      integer("device", 0);
      integer("address", static_cast<std::int64_t>(segment.address.value()));
      integer("total_size", segment.size.count());
      integer("allocated_size", allocated.count());
      integer("active_size", active.count());
      integer("requested_size", requested.count());
      integer("stream", handle(segment.stream));
      text("segment_type", segment.small_pool ? "small" : "large");
      out_.text("segment_pool_id");
      out_.pair(0, segment.pool);
      boolean("is_expandable", segment.expandable);
      put_frames(0);
      out_.text("blocks");
      out_.begin_list();
      Address address = segment.address;
      for (const RecordedBlock& block : segment.blocks) {
        out_.begin_dict();
        integer("address", static_cast<std::int64_t>(address.value()));
        integer("size", block.size.count());
        integer("requested_size", block.requested.count());
        text("state", block.allocated ? "active_allocated"
                      : block.active  ? "active_pending_free"
                                      : "inactive");
        const auto label = label_at_.find(address);
        put_frames(block.active && label != label_at_.end() ? label->second : 0);
        out_.end_dict();
        address = address + block.size;
      }
      out_.end_list();
      out_.end_dict();
    }
    out_.end_list();
  }

  void put_settings() {
    // The viewer shows what stands here; a reader of ours needs the string only, and whether the
    // head was lost.
    out_.begin_dict();
    text("PYTORCH_CUDA_ALLOC_CONF", recording_.alloc_conf);
    boolean("expandable_segments",
            recording_.alloc_conf.find("expandable_segments:True") != std::string::npos);
    if (recording_.head_lost) {
      boolean("trace_alloc_overflowed", true);
    }
    out_.end_dict();
  }

  void put_annotations() {
    out_.begin_list();
    std::string open;
    const auto put = [&](std::string_view name, std::string_view stage, std::int64_t time) {
      out_.begin_dict();
      text("name", name);
      text("stage", stage);
      integer("device", 0);
      integer("time_us", time);
      out_.end_dict();
    };
    for (std::size_t i = 0; i < trace_.ops.size() && !trace_.times_us.empty(); ++i) {
      if (trace_.ops[i].kind == OpKind::mark) {
        if (!open.empty()) {
          put(open, "END", trace_.times_us[i]);
        }
        open = trace_.strings[trace_.ops[i].id];
        put(open, "START", trace_.times_us[i]);
      }
    }
    if (!open.empty()) {
      put(open, "END", trace_.times_us.back());
    }
    out_.end_list();
  }

  const Trace& trace_;
  const Recording& recording_;
  PickleWriter out_{};
  std::map<Address, std::uint32_t> label_at_{};  ///< of what was handed out last at an address
  std::unordered_map<std::uint32_t, std::uint32_t> memo_of_label_{};  // never iterated
};

}  // namespace

Expected<std::string> snapshot_pickle(const Trace& trace) {
  check(trace.recording.has_value(), "a recording to export");
  try {
    return Exporter{trace}.run();
  } catch (const Wrong& wrong) {
    return invalid_input(wrong.what);
  }
}

}  // namespace peakcast
