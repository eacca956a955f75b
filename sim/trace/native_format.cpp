#include "sim/trace/native_format.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <boost/crc.hpp>
#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/size_text.hpp"
#include "sim/core/slots.hpp"
#include "sim/trace/address_map.hpp"
#include "sim/trace/byte_source.hpp"
#include "sim/trace/derive_program.hpp"
#include "sim/trace/validate.hpp"

namespace peakcast {
namespace {

constexpr std::uint16_t kVersion = 1;
constexpr std::size_t kRowsPerSection = std::size_t{1} << 18;
constexpr std::uint32_t kLargestSection = std::uint32_t{1} << 26;
// A row takes at most 10 bytes a column.
static_assert(kRowsPerSection * 10 * 8 < kLargestSection);
constexpr std::size_t kSectionHead = 16;
constexpr int kZstdLevel = 9;

// Bits of HEAD's flags.
constexpr std::uint64_t kHasRecording = 1;
constexpr std::uint64_t kDerivedOps = 2;
constexpr std::uint64_t kLabels = 4;
constexpr std::uint64_t kTimes = 8;
constexpr std::uint64_t kEventLabels = 16;
constexpr std::uint64_t kEventTimes = 32;
constexpr std::uint64_t kHeadLost = 64;
constexpr std::uint64_t kEventOfOp = 128;

// Codes of EVTS rows beyond the actions.
constexpr std::uint8_t kFreePair = 9;
constexpr std::uint8_t kFreeRequested = 10;
constexpr std::uint8_t kFreeCompleted = 11;

std::uint64_t zigzag(std::int64_t value) {
  return static_cast<std::uint64_t>(value) << 1U ^ static_cast<std::uint64_t>(value >> 63);
}
std::int64_t unzigzag(std::uint64_t value) {
  return static_cast<std::int64_t>(value >> 1U) ^ -static_cast<std::int64_t>(value & 1U);
}
/// Differences wrap, so that any two values have one.
std::int64_t minus(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) - static_cast<std::uint64_t>(b));
}
std::int64_t plus(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
}

class Packer {
 public:
  void byte(std::uint8_t value) { out_ += static_cast<char>(value); }
  void varint(std::uint64_t value) {
    while (value >= 0x80) {
      byte(static_cast<std::uint8_t>(value | 0x80U));
      value >>= 7U;
    }
    byte(static_cast<std::uint8_t>(value));
  }
  void signed_varint(std::int64_t value) { varint(zigzag(value)); }
  void text(std::string_view value) {
    varint(value.size());
    out_.append(value);
  }
  void column(const Packer& values) { text(values.out_); }
  [[nodiscard]] const std::string& bytes() const { return out_; }
  void clear() { out_.clear(); }

 private:
  std::string out_{};
};

/// Reads what a Packer wrote. Past the end it gives zeros and remembers it.
class Unpacker {
 public:
  Unpacker() = default;
  explicit Unpacker(std::string_view bytes)
      : at_{bytes.data()}, end_{bytes.data() + bytes.size()} {}
  std::uint8_t byte() {
    if (at_ == end_) {
      bad_ = true;
      return 0;
    }
    return static_cast<std::uint8_t>(*at_++);
  }
  std::uint64_t varint() {
    std::uint64_t first = byte();
    if (first < 0x80) [[likely]] {
      return first;
    }
    std::uint64_t value = first & 0x7fU;
    for (unsigned shift = 7; shift < 64; shift += 7) {
      const std::uint64_t next = byte();
      value |= (next & 0x7fU) << shift;
      if (next < 0x80) {
        return value;
      }
    }
    bad_ = true;
    return 0;
  }
  std::int64_t signed_varint() { return unzigzag(varint()); }
  std::string_view text() {
    const std::uint64_t size = varint();
    if (size > left()) {
      bad_ = true;
      return {};
    }
    const std::string_view value{at_, static_cast<std::size_t>(size)};
    at_ += size;
    return value;
  }
  Unpacker column() { return Unpacker{text()}; }
  [[nodiscard]] std::size_t left() const { return static_cast<std::size_t>(end_ - at_); }
  [[nodiscard]] bool bad() const { return bad_; }
  /// Whether everything was there and nothing is left.
  [[nodiscard]] bool ended() const { return !bad_ && at_ == end_; }

 private:
  const char* at_{};
  const char* end_{};
  bool bad_{};
};

std::uint32_t checksum(std::string_view head, std::string_view packed) {
  boost::crc_32_type crc;
  crc.process_bytes(head.data(), head.size());
  crc.process_bytes(packed.data(), packed.size());
  return crc.checksum();
}

void append_integer(std::string& out, std::uint64_t value, unsigned width) {
  for (unsigned i = 0; i < width; ++i) {
    out += static_cast<char>(static_cast<unsigned char>(value >> (8 * i)));
  }
}

std::uint64_t integer_at(std::string_view bytes, std::size_t at, unsigned width) {
  std::uint64_t value = 0;
  for (unsigned i = width; i-- > 0;) {
    value = value << 8U | static_cast<unsigned char>(bytes[at + i]);
  }
  return value;
}

/// What lies in a slot of EVTS: both sides keep them alike.
struct Buffer {
  AllocatorEvent alloc{};
  bool live{};
  bool pending{};
};

void give_back(Slots<Buffer>& slots, std::uint32_t slot) {
  slots[slot].live = false;
  slots.give_back(slot);
}

class Writer {
 public:
  explicit Writer(const Trace& trace) : trace_{trace} {}

  std::string run() {
    out_.append(kNativeMagic);
    append_integer(out_, kVersion, 2);
    append_integer(out_, 0, 2);
    derived_ = ops_are_derived();
    write_head();
    write_strings();
    if (trace_.recording) {
      write_recording();
      write_events();
    }
    if (derived_) {
      write_marks();
    } else {
      write_ops();
    }
    section("END ");
    return std::move(out_);
  }

 private:
  void section(std::string_view tag) {
    const std::string& raw = packer_.bytes();
    check(raw.size() <= kLargestSection, "a section fits its limit");
    const std::string packed = zstd_compressed(raw, kZstdLevel);
    std::string head{tag};
    append_integer(head, raw.size(), 4);
    append_integer(head, packed.size(), 4);
    const std::uint32_t crc = checksum(head, packed);
    append_integer(head, crc, 4);
    out_.append(head).append(packed);
    packer_.clear();
  }

  /// Whether derive_program() makes the same ops again, marks apart.
  [[nodiscard]] bool ops_are_derived() const {
    if (!trace_.recording) {
      return false;
    }
    const Recording& recording = *trace_.recording;
    if (recording.event_of_op.size() != trace_.ops.size()) {
      return false;
    }
    Trace again;
    again.streams = trace_.streams;
    again.recording = recording;
    again.recording->head_lost = false;
    if (derive_program(again, recording.head_lost)) {
      return false;
    }
    std::size_t at = 0;
    for (std::size_t i = 0; i < trace_.ops.size(); ++i) {
      const Op& op = trace_.ops[i];
      if (op.kind == OpKind::mark) {
        if (op.value != 0 || op.stream != 0 || recording.event_of_op[i] != kNoEvent ||
            (!trace_.labels.empty() && trace_.labels[i] != 0)) {
          return false;
        }
        continue;
      }
      if (at == again.ops.size() || op != again.ops[at] ||
          recording.event_of_op[i] != again.recording->event_of_op[at] ||
          (!trace_.times_us.empty() &&
           (again.times_us.empty() || trace_.times_us[i] != again.times_us[at])) ||
          (!trace_.labels.empty() &&
           (again.labels.empty() || trace_.labels[i] != again.labels[at]))) {
        return false;
      }
      ++at;
    }
    return at == again.ops.size() && again.buffer_slots == trace_.buffer_slots &&
           again.streams == trace_.streams && trace_.event_slots == 0 &&
           again.times_us.empty() == trace_.times_us.empty() &&
           again.labels.empty() == trace_.labels.empty();
  }

  void write_head() {
    const Recording* recording = trace_.recording ? &*trace_.recording : nullptr;
    std::uint64_t flags = 0;
    const auto set = [&](bool on, std::uint64_t flag) { flags |= on ? flag : 0U; };
    set(recording != nullptr, kHasRecording);
    set(derived_, kDerivedOps);
    set(!trace_.labels.empty(), kLabels);
    set(!trace_.times_us.empty(), kTimes);
    set(recording != nullptr && !recording->labels.empty(), kEventLabels);
    set(recording != nullptr && !recording->times_us.empty(), kEventTimes);
    set(recording != nullptr && recording->head_lost, kHeadLost);
    set(recording != nullptr && !recording->event_of_op.empty(), kEventOfOp);
    packer_.varint(flags);
    packer_.varint(trace_.buffer_slots);
    packer_.varint(trace_.event_slots);
    packer_.varint(trace_.streams.size());
    for (const std::uint64_t handle : trace_.streams) {
      packer_.varint(handle);
    }
    packer_.text(trace_.source);
    section("HEAD");
  }

  void write_strings() {
    for (const std::string& word : trace_.strings) {
      if (packer_.bytes().size() + word.size() + 10 > kLargestSection / 4) {
        section("STRS");
      }
      packer_.text(std::string_view{word}.substr(0, kLargestSection / 8));
    }
    if (!packer_.bytes().empty()) {
      section("STRS");
    }
  }

  void write_recording() {
    const Recording& recording = *trace_.recording;
    const auto optional = [&](const std::optional<Bytes>& size) {
      packer_.varint(size ? static_cast<std::uint64_t>(size->count()) + 1 : 0);
    };
    packer_.text(recording.framework);
    packer_.text(recording.alloc_conf);
    optional(recording.limit);
    optional(recording.device_total);
    packer_.varint(recording.final_statistics.size());
    for (const RecordedFigure& figure : recording.final_statistics) {
      packer_.text(figure.name);
      packer_.signed_varint(figure.value);
    }
    packer_.varint(recording.segments.size());
    for (const RecordedSegment& segment : recording.segments) {
      packer_.varint(segment.address.value());
      packer_.varint(static_cast<std::uint64_t>(segment.size.count()));
      packer_.varint(segment.stream.value);
      packer_.varint((segment.small_pool ? 1U : 0U) | (segment.expandable ? 2U : 0U) |
                     std::uint64_t{segment.pool} << 2U);
      packer_.varint(segment.blocks.size());
      for (const RecordedBlock& block : segment.blocks) {
        packer_.varint(static_cast<std::uint64_t>(block.size.count()));
        packer_.varint(static_cast<std::uint64_t>(block.requested.count()));
        packer_.varint((block.allocated ? 1U : 0U) | (block.active ? 2U : 0U));
      }
    }
    section("RECD");
  }

  void write_events() {
    const Recording& recording = *trace_.recording;
    const std::vector<AllocatorEvent>& events = recording.events;
    AddressMap live;
    Slots<Buffer> slots;
    std::int64_t last_address = 0;
    std::int64_t last_time = 0;
    for (std::size_t i = 0; i < events.size();) {
      Packer codes;
      Packer slot_column;
      Packer addresses;
      Packer sizes;
      Packer streams;
      Packer labels;
      Packer times;
      std::size_t rows = 0;
      const auto put_times = [&](std::size_t event) {
        if (!recording.labels.empty()) {
          labels.varint(recording.labels[event]);
        }
        if (!recording.times_us.empty()) {
          times.signed_varint(minus(recording.times_us[event], last_time));
          last_time = recording.times_us[event];
        }
      };
      for (; rows < kRowsPerSection / 2 && i < events.size(); ++rows) {
        const AllocatorEvent& event = events[i];
        const bool frees =
            event.action == Action::free_requested || event.action == Action::free_completed;
        constexpr std::uint32_t kNoSlot = 0xffffffff;
        const std::uint32_t slot =
            frees ? live.find(event.address.value()).value_or(kNoSlot) : kNoSlot;
        const bool implied = slot != kNoSlot && slots[slot].alloc.size == event.size &&
                             slots[slot].alloc.stream == event.stream;
        put_times(i);
        if (implied && event.action == Action::free_requested && !slots[slot].pending) {
          slot_column.varint(slot);
          AllocatorEvent completed = event;
          completed.action = Action::free_completed;
          if (i + 1 < events.size() && events[i + 1] == completed) {
            codes.byte(kFreePair);
            put_times(i + 1);
            live.take(event.address.value());
            give_back(slots, slot);
            i += 2;
          } else {
            codes.byte(kFreeRequested);
            slots[slot].pending = true;
            ++i;
          }
          continue;
        }
        if (implied && event.action == Action::free_completed && slots[slot].pending) {
          slot_column.varint(slot);
          codes.byte(kFreeCompleted);
          slots[slot].pending = false;
          live.take(event.address.value());
          give_back(slots, slot);
          ++i;
          continue;
        }
        codes.byte(static_cast<std::uint8_t>(event.action));
        const auto address = static_cast<std::int64_t>(event.address.value());
        addresses.signed_varint(minus(address, last_address));
        last_address = address;
        sizes.varint(static_cast<std::uint64_t>(event.size.count()));
        streams.varint(event.stream.value);
        if (event.action == Action::alloc) {
          const std::uint32_t fresh = slots.take({event, true, false});
          // An address that is live already cannot be found by its slot any more: its free is
          // spelled out.
          live.insert(event.address.value(), fresh);
        }
        ++i;
      }
      packer_.varint(rows);
      packer_.column(codes);
      packer_.column(slot_column);
      packer_.column(addresses);
      packer_.column(sizes);
      packer_.column(streams);
      packer_.column(labels);
      packer_.column(times);
      section("EVTS");
    }
  }

  void write_ops() {
    const std::vector<std::uint32_t>* events =
        trace_.recording && !trace_.recording->event_of_op.empty() ? &trace_.recording->event_of_op
                                                                   : nullptr;
    std::int64_t last_time = 0;
    std::int64_t last_event = 0;
    for (std::size_t i = 0; i < trace_.ops.size();) {
      const std::size_t rows = std::min(kRowsPerSection, trace_.ops.size() - i);
      Packer kinds;
      Packer flags;
      Packer ids;
      Packer streams;
      Packer values;
      Packer labels;
      Packer times;
      Packer entries;
      for (std::size_t row = 0; row < rows; ++row, ++i) {
        const Op& op = trace_.ops[i];
        kinds.byte(static_cast<std::uint8_t>(op.kind));
        flags.byte(op.flags);
        ids.varint(op.id);
        streams.varint(op.stream);
        values.signed_varint(op.value);
        if (!trace_.labels.empty()) {
          labels.varint(trace_.labels[i]);
        }
        if (!trace_.times_us.empty()) {
          times.signed_varint(minus(trace_.times_us[i], last_time));
          last_time = trace_.times_us[i];
        }
        if (events != nullptr) {
          entries.signed_varint(minus((*events)[i], last_event));
          last_event = (*events)[i];
        }
      }
      packer_.varint(rows);
      for (const Packer* column :
           {&kinds, &flags, &ids, &streams, &values, &labels, &times, &entries}) {
        packer_.column(*column);
      }
      section("OPS_");
    }
  }

  void write_marks() {
    std::vector<std::size_t> marks;
    for (std::size_t i = 0; i < trace_.ops.size(); ++i) {
      if (trace_.ops[i].kind == OpKind::mark) {
        marks.push_back(i);
      }
    }
    std::size_t after = 0;
    for (std::size_t begin = 0; begin < marks.size();) {
      const std::size_t rows = std::min(kRowsPerSection, marks.size() - begin);
      packer_.varint(rows);
      for (std::size_t row = 0; row < rows; ++row, ++begin) {
        const std::size_t at = marks[begin];
        packer_.varint(at - after);
        packer_.varint(trace_.ops[at].id);
        packer_.byte(trace_.ops[at].flags);
        packer_.signed_varint(trace_.times_us.empty() ? 0 : trace_.times_us[at]);
        after = at + 1;
      }
      section("MRKS");
    }
  }

  const Trace& trace_;
  bool derived_{};
  std::string out_{};
  Packer packer_{};
};

class Reader {
 public:
  Reader(std::string_view bytes, const std::string& name, const NativeOptions& options)
      : bytes_{bytes}, name_{name}, options_{options} {}

  Expected<Trace> run() {
    read();
    if (!fault_) {
      finish();
    }
    if (fault_) {
      return *std::move(fault_);
    }
    return std::move(trace_);
  }

 private:
  void fail(std::string why) {
    if (!fault_) {
      fault_ = invalid_input(std::move(why),
                             InputPosition{name_, 0, 0, static_cast<std::int64_t>(section_at_)});
    }
  }

  void read() {
    constexpr std::size_t kFileHead = 12;
    if (bytes_.size() < kFileHead || !bytes_.starts_with(kNativeMagic)) {
      fail("the file head is cut off or damaged");
      return;
    }
    const std::uint64_t version = integer_at(bytes_, kNativeMagic.size(), 2);
    if (version != kVersion || integer_at(bytes_, kNativeMagic.size() + 2, 2) != 0) {
      fail(fmt::format("format version {}; this program reads version {}", version, kVersion));
      return;
    }
    std::size_t at = kFileHead;
    // HEAD first, END last; the order between them is the readers' to check by what they need.
    bool ended = false;
    int last_rank = 0;
    while (!fault_ && !ended) {
      section_at_ = at;
      if (bytes_.size() - at < kSectionHead) {
        fail("the file is cut off");
        return;
      }
      const std::string_view head = bytes_.substr(at, kSectionHead);
      const std::string_view tag = head.substr(0, 4);
      const std::uint64_t raw_size = integer_at(head, 4, 4);
      const std::uint64_t packed_size = integer_at(head, 8, 4);
      at += kSectionHead;
      const int rank = rank_of(tag);
      if (rank == 0) {
        fail("a section of unknown kind, or damaged");
        return;
      }
      if (raw_size > kLargestSection || packed_size > bytes_.size() - at) {
        fail(fmt::format("a section of {} bytes is claimed, {} are left", packed_size,
                         bytes_.size() - at));
        return;
      }
      const std::string_view packed = bytes_.substr(at, static_cast<std::size_t>(packed_size));
      at += packed.size();
      if (options_.checksums && checksum(head.substr(0, 12), packed) != integer_at(head, 12, 4)) {
        fail("the checksum does not fit: the file is damaged");
        return;
      }
      const bool repeats = tag == "STRS" || tag == "EVTS" || tag == "OPS_" || tag == "MRKS";
      if (rank < last_rank || (rank == last_rank && !repeats) ||
          (last_rank == 0 && tag != "HEAD")) {
        fail("sections are out of order");
        return;
      }
      last_rank = rank;
      raw_.resize(static_cast<std::size_t>(raw_size));
      if (!zstd_decompress(packed, raw_)) {
        fail("a section cannot be decompressed");
        return;
      }
      Unpacker in{std::string_view{raw_.data(), raw_.size()}};
      ended = tag == "END ";
      read_section(tag, in);
      if (!fault_ && !in.ended()) {
        fail("a section holds more or less than it should");
      }
      check_memory();
    }
    if (!fault_ && at != bytes_.size()) {
      section_at_ = at;
      fail("bytes after the end");
    }
  }

  /// Between sections: one adds no more than some 100 MiB, but for texts.
  void check_memory() {
    const auto held = []<class T>(const std::vector<T>& items) {
      return items.capacity() * sizeof(T);
    };
    std::size_t sum = held(raw_) + held(trace_.ops) + held(trace_.strings) + text_bytes_ +
                      held(trace_.labels) + held(trace_.times_us);
    if (trace_.recording) {
      const Recording& recording = *trace_.recording;
      sum += held(recording.events) + held(recording.event_of_op) + held(recording.times_us) +
             held(recording.labels);
    }
    if (sum > static_cast<std::size_t>(options_.most_memory.count())) {
      fail(fmt::format("it takes more than {} of memory: --max-memory allows more",
                       size_text(options_.most_memory)));
    }
  }

  static int rank_of(std::string_view tag) {
    constexpr std::array<std::string_view, 7> kOrder{"HEAD", "STRS", "RECD", "EVTS",
                                                     "OPS_", "MRKS", "END "};
    for (std::size_t i = 0; i < kOrder.size(); ++i) {
      if (kOrder.at(i) == tag) {
        return static_cast<int>(i) + 1;
      }
    }
    return 0;
  }

  void read_section(std::string_view tag, Unpacker& in) {
    if (tag == "HEAD") {
      read_head(in);
    } else if (tag == "STRS") {
      while (in.left() > 0 && !in.bad()) {
        trace_.strings.emplace_back(in.text());
        text_bytes_ += trace_.strings.back().size() + sizeof(std::string);
        if (trace_.strings.size() % kRowsPerSection == 0) {
          check_memory();
          if (fault_) {
            return;
          }
        }
      }
    } else if ((tag == "RECD" || tag == "EVTS") && !trace_.recording) {
      fail("a recording's section without a recording");
    } else if (tag == "RECD") {
      read_recording(in);
    } else if (tag == "EVTS") {
      read_events(in);
    } else if (tag == "OPS_") {
      if ((flags_ & kDerivedOps) != 0) {
        fail("ops in a file whose ops are derived");
      } else {
        read_ops(in);
      }
    } else if (tag == "MRKS") {
      read_marks(in);
    }
  }

  void read_head(Unpacker& in) {
    flags_ = in.varint();
    const std::uint64_t slots = in.varint();
    const std::uint64_t event_slots = in.varint();
    const std::uint64_t streams = in.varint();
    if (flags_ > 255 || ((flags_ & kDerivedOps) != 0 && (flags_ & kHasRecording) == 0)) {
      fail("flags that are not known");
      return;
    }
    if (slots > std::numeric_limits<std::uint32_t>::max() ||
        event_slots > std::numeric_limits<std::uint32_t>::max() || streams == 0 ||
        streams > 0x10000) {
      fail("counts that are out of range");
      return;
    }
    trace_.buffer_slots = static_cast<std::uint32_t>(slots);
    trace_.event_slots = static_cast<std::uint32_t>(event_slots);
    trace_.streams.clear();
    for (std::uint64_t i = 0; i < streams; ++i) {
      trace_.streams.push_back(in.varint());
    }
    trace_.source = in.text();
    if ((flags_ & kHasRecording) != 0) {
      trace_.recording.emplace();
    }
  }

  std::optional<Bytes> optional_size(Unpacker& in) {
    const std::uint64_t value = in.varint();
    if (value > static_cast<std::uint64_t>(kLargestSize) + 1) {
      fail("a size beyond 256 TiB");
      return std::nullopt;
    }
    return value == 0 ? std::nullopt : std::optional{Bytes{static_cast<std::int64_t>(value - 1)}};
  }
  Bytes size(Unpacker& in) {
    const std::uint64_t value = in.varint();
    if (value > static_cast<std::uint64_t>(kLargestSize)) {
      fail("a size beyond 256 TiB");
      return Bytes{};
    }
    return Bytes{static_cast<std::int64_t>(value)};
  }

  void read_recording(Unpacker& in) {
    Recording& recording = *trace_.recording;
    recording.framework = in.text();
    recording.alloc_conf = in.text();
    recording.limit = optional_size(in);
    recording.device_total = optional_size(in);
    for (std::uint64_t count = in.varint(); count > 0 && !in.bad() && !fault_; --count) {
      std::string name{in.text()};
      recording.final_statistics.push_back({std::move(name), in.signed_varint()});
    }
    std::int64_t reserved = 0;
    for (std::uint64_t count = in.varint(); count > 0 && !in.bad() && !fault_; --count) {
      RecordedSegment segment;
      segment.address = Address{in.varint()};
      segment.size = size(in);
      segment.stream =
          StreamId{static_cast<std::uint32_t>(std::min<std::uint64_t>(in.varint(), 0xffffffff))};
      const std::uint64_t kind = in.varint();
      segment.small_pool = (kind & 1U) != 0;
      segment.expandable = (kind & 2U) != 0;
      segment.pool =
          static_cast<std::uint32_t>(std::min<std::uint64_t>(kind >> 2U, kMostPools + 1));
      if (segment.address.value() > kLargestAddress || segment.pool > kMostPools ||
          segment.stream.value >= trace_.streams.size()) {
        fail("a segment that cannot be");
      }
      for (std::uint64_t blocks = in.varint(); blocks > 0 && !in.bad() && !fault_; --blocks) {
        RecordedBlock block;
        block.size = size(in);
        block.requested = size(in);
        const std::uint64_t state = in.varint();
        block.allocated = (state & 1U) != 0;
        block.active = (state & 2U) != 0;
        segment.blocks.push_back(block);
      }
      reserved += segment.size.count();
      if (reserved > kLargestSum) {
        fail("segments that add up to more than 2 EiB");
      }
      recording.segments.push_back(std::move(segment));
    }
  }

  void read_events(Unpacker& in) {
    Recording& recording = *trace_.recording;
    const std::uint64_t rows = in.varint();
    Unpacker codes = in.column();
    Unpacker slot_column = in.column();
    Unpacker addresses = in.column();
    Unpacker sizes = in.column();
    Unpacker streams = in.column();
    Unpacker labels = in.column();
    Unpacker times = in.column();
    if (in.bad() || rows != codes.left()) {
      fail("the rows are cut off");
      return;
    }
    std::vector<AllocatorEvent>& events = recording.events;
    const std::size_t before = events.size();
    if (events.capacity() < before + 2 * rows) {
      events.reserve(std::max(before + 2 * static_cast<std::size_t>(rows), 2 * events.capacity()));
    }
    const std::size_t stream_count = trace_.streams.size();
    bool in_range = true;
    for (std::uint64_t row = 0; row < rows; ++row) {
      const std::uint8_t code = codes.byte();
      if (code >= kFreePair) {
        const std::uint64_t slot = slot_column.varint();
        const bool wants_pending = code == kFreeCompleted;
        if (code > kFreeCompleted || slot >= slots_.size() ||
            !slots_[static_cast<std::uint32_t>(slot)].live ||
            slots_[static_cast<std::uint32_t>(slot)].pending != wants_pending) {
          fail(fmt::format("entry {} frees slot {}, which is not live", events.size(), slot));
          return;
        }
        Buffer& buffer = slots_[static_cast<std::uint32_t>(slot)];
        AllocatorEvent event = buffer.alloc;
        if (code != kFreeCompleted) {
          event.action = Action::free_requested;
          events.push_back(event);
        }
        if (code != kFreeRequested) {
          event.action = Action::free_completed;
          events.push_back(event);
          buffer.pending = false;
          give_back(slots_, static_cast<std::uint32_t>(slot));
        } else {
          buffer.pending = true;
        }
        continue;
      }
      last_address_ = plus(last_address_, addresses.signed_varint());
      const std::uint64_t bytes = sizes.varint();
      const std::uint64_t stream = streams.varint();
      AllocatorEvent event;
      event.action = static_cast<Action>(code);
      event.address = Address{static_cast<std::uint64_t>(last_address_)};
      const bool placed = event.action != Action::oom && event.action != Action::snapshot;
      in_range = in_range && bytes <= static_cast<std::uint64_t>(kLargestSize) &&
                 stream < stream_count && (bytes > 0 || event.action == Action::snapshot) &&
                 (!placed || (last_address_ > 0 &&
                              static_cast<std::uint64_t>(last_address_) <= kLargestAddress));
      if (!in_range) {
        fail(fmt::format("entry {} has a size, address or stream out of range", events.size()));
        return;
      }
      event.size = Bytes{static_cast<std::int64_t>(bytes)};
      event.stream = StreamId{static_cast<std::uint32_t>(stream)};
      events.push_back(event);
      if (event.action == Action::alloc) {
        slots_.take({event, true, false});
      }
    }
    if (events.size() >= kNoEvent) {
      fail("more entries than 2^32");
      return;
    }
    for (std::size_t i = before; i < events.size(); ++i) {
      if ((flags_ & kEventLabels) != 0) {
        const std::uint64_t label = labels.varint();
        if (label > trace_.strings.size()) {
          fail("a label beyond the strings");
          return;
        }
        recording.labels.push_back(static_cast<std::uint32_t>(label));
      }
    }
    if ((flags_ & kEventTimes) != 0) {
      recording.times_us.resize(events.size());
      for (std::size_t i = before; i < events.size(); ++i) {
        last_time_ = plus(last_time_, times.signed_varint());
        recording.times_us[i] = last_time_;
      }
    }
    for (const Unpacker* column :
         {&codes, &slot_column, &addresses, &sizes, &streams, &labels, &times}) {
      if (!column->ended()) {
        fail("a column holds more or less than its rows");
        return;
      }
    }
  }

  void read_ops(Unpacker& in) {
    const std::uint64_t rows = in.varint();
    Unpacker kinds = in.column();
    Unpacker flags = in.column();
    Unpacker ids = in.column();
    Unpacker streams = in.column();
    Unpacker values = in.column();
    Unpacker labels = in.column();
    Unpacker times = in.column();
    Unpacker entries = in.column();
    if (in.bad() || rows != kinds.left()) {
      fail("the rows are cut off");
      return;
    }
    const bool with_entries = (flags_ & kEventOfOp) != 0 && trace_.recording;
    for (std::uint64_t row = 0; row < rows; ++row) {
      Op op;
      const std::uint8_t kind = kinds.byte();
      const std::uint64_t id = ids.varint();
      const std::uint64_t stream = streams.varint();
      if (kind >= kOpKindCount || id > 0xffffffff || stream > 0xffff) {
        fail(fmt::format("op {} is out of range", trace_.ops.size()));
        return;
      }
      op.kind = static_cast<OpKind>(kind);
      op.flags = flags.byte();
      op.id = static_cast<std::uint32_t>(id);
      op.stream = static_cast<std::uint16_t>(stream);
      op.value = values.signed_varint();
      trace_.ops.push_back(op);
      if ((flags_ & kLabels) != 0) {
        trace_.labels.push_back(
            static_cast<std::uint32_t>(std::min<std::uint64_t>(labels.varint(), 0xffffffff)));
      }
      if ((flags_ & kTimes) != 0) {
        last_op_time_ = plus(last_op_time_, times.signed_varint());
        trace_.times_us.push_back(last_op_time_);
      }
      if (with_entries) {
        last_entry_ = plus(last_entry_, entries.signed_varint());
        trace_.recording->event_of_op.push_back(last_entry_ < 0 || last_entry_ > kNoEvent
                                                    ? kNoEvent
                                                    : static_cast<std::uint32_t>(last_entry_));
      }
    }
    for (const Unpacker* column :
         {&kinds, &flags, &ids, &streams, &values, &labels, &times, &entries}) {
      if (!column->ended()) {
        fail("a column holds more or less than its rows");
        return;
      }
    }
  }

  struct Mark {
    std::size_t after{};
    std::uint32_t text{};
    std::uint8_t flags{};
    std::int64_t time{};
  };

  void read_marks(Unpacker& in) {
    if ((flags_ & kDerivedOps) == 0) {
      fail("marks apart from ops that are not derived");
      return;
    }
    for (std::uint64_t rows = in.varint(); rows > 0 && !in.bad(); --rows) {
      Mark mark;
      mark.after = static_cast<std::size_t>(in.varint());
      const std::uint64_t text = in.varint();
      mark.flags = in.byte();
      mark.time = in.signed_varint();
      if (text >= trace_.strings.size() || mark.flags > 2) {
        fail("a mark that cannot be");
        return;
      }
      mark.text = static_cast<std::uint32_t>(text);
      marks_.push_back(mark);
    }
  }

  void finish() {
    section_at_ = 0;
    if ((flags_ & kDerivedOps) != 0) {
      const std::uint32_t slots = trace_.buffer_slots;
      const std::vector<std::uint64_t> streams = trace_.streams;
      if (auto bad = derive_program(trace_, (flags_ & kHeadLost) != 0)) {
        fail(fmt::format("entry {}: {}", bad->event, bad->why));
        return;
      }
      if (trace_.buffer_slots != slots || trace_.streams != streams ||
          ((flags_ & kTimes) != 0) != !trace_.times_us.empty() ||
          ((flags_ & kLabels) != 0) != !trace_.labels.empty()) {
        // An empty trace has neither.
        if (!trace_.ops.empty()) {
          fail("the head does not fit the entries");
          return;
        }
      }
      insert();
    }
    if (trace_.recording) {
      trace_.recording->head_lost = (flags_ & kHeadLost) != 0;
    }
    // Derived ops are valid by the way they are made, and the entries were checked as they came.
    const bool derived = (flags_ & kDerivedOps) != 0;
    if (auto bad = fault_ || derived ? std::nullopt : first_fault(trace_)) {
      fail(bad->op < trace_.ops.size() ? fmt::format("op {}: {}", bad->op, bad->why) : bad->why);
    }
  }

  void insert() {
    if (marks_.empty()) {
      return;
    }
    std::vector<Op> ops;
    std::vector<std::int64_t> times;
    std::vector<std::uint32_t> labels;
    std::vector<std::uint32_t> entries;
    std::vector<std::uint32_t>& event_of_op = trace_.recording->event_of_op;
    ops.reserve(trace_.ops.size() + marks_.size());
    std::size_t next = 0;
    const auto copy_until = [&](std::size_t end) {
      const auto range = [&](const auto& from, auto& to) {
        if (!from.empty()) {
          to.insert(to.end(), from.begin() + static_cast<std::ptrdiff_t>(next),
                    from.begin() + static_cast<std::ptrdiff_t>(end));
        }
      };
      range(trace_.ops, ops);
      range(trace_.times_us, times);
      range(trace_.labels, labels);
      range(event_of_op, entries);
      next = end;
    };
    for (const Mark& mark : marks_) {
      if (mark.after > trace_.ops.size() - next) {
        fail("a mark beyond the ops");
        return;
      }
      copy_until(next + mark.after);
      ops.push_back({0, mark.text, 0, OpKind::mark, mark.flags});
      entries.push_back(kNoEvent);
      if (!trace_.times_us.empty()) {
        times.push_back(mark.time);
      }
      if (!trace_.labels.empty()) {
        labels.push_back(0);
      }
    }
    copy_until(trace_.ops.size());
    trace_.ops = std::move(ops);
    trace_.times_us = std::move(times);
    trace_.labels = std::move(labels);
    event_of_op = std::move(entries);
  }

  std::string_view bytes_;
  const std::string& name_;
  NativeOptions options_;
  std::size_t section_at_{};
  std::vector<char> raw_{};
  std::size_t text_bytes_{};
  std::uint64_t flags_{};
  Slots<Buffer> slots_{};
  std::int64_t last_address_{};
  std::int64_t last_time_{};
  std::int64_t last_op_time_{};
  std::int64_t last_entry_{};
  std::vector<Mark> marks_{};
  Trace trace_{};
  std::optional<Error> fault_{};
};

}  // namespace

std::string native_bytes(const Trace& trace) { return Writer{trace}.run(); }

Expected<Trace> read_native(std::string_view bytes, const std::string& name,
                            const NativeOptions& options) {
  return Reader{bytes, name, options}.run();
}

}  // namespace peakcast
