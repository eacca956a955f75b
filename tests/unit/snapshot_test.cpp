#include "sim/trace/snapshot.hpp"

#include <string>
#include <string_view>
#include <utility>

#include <gtest/gtest.h>

#include "sim/trace/byte_source.hpp"
#include "sim/trace/pickle.hpp"
#include "sim/trace/read_trace.hpp"
#include "sim/trace/validate.hpp"
#include "tests/support/program.hpp"

namespace peakcast {
namespace {

using namespace std::string_literals;

std::string fault(const std::string& pickle) {
  const auto loaded = read_trace_bytes(pickle, "s.pickle");
  return loaded ? "no fault" : to_string(loaded.error());
}

/// {"segments": [...], "device_traces": [[entry...]]}; entries are (action, addr, size).
struct Entry {
  std::string_view action;
  std::int64_t address;
  std::int64_t size;
};
std::string snapshot(const std::vector<Entry>& entries, std::int64_t active_at = 0) {
  PickleWriter out;
  out.begin_dict();
  out.text("segments");
  out.begin_list();
  if (active_at != 0) {
    out.begin_dict();
    out.text("address");
    out.integer(active_at);
    out.text("total_size");
    out.integer(2097152);
    out.text("stream");
    out.integer(0);
    out.text("blocks");
    out.begin_list();
    for (const auto& [size, state] : {std::pair{512, "active_allocated"}, {2096640, "inactive"}}) {
      out.begin_dict();
      out.text("size");
      out.integer(size);
      out.text("requested_size");
      out.integer(size - 12);
      out.text("state");
      out.text(state);
      out.end_dict();
    }
    out.end_list();
    out.end_dict();
  }
  out.end_list();
  out.text("device_traces");
  out.begin_list();
  out.begin_list();
  for (const Entry& entry : entries) {
    out.begin_dict();
    out.text("action");
    out.text(entry.action);
    out.text("addr");
    out.integer(entry.address);
    out.text("size");
    out.integer(entry.size);
    out.text("stream");
    out.integer(0);
    out.end_dict();
  }
  out.end_list();
  out.end_list();
  out.end_dict();
  return out.take();
}

TEST(Snapshot, ReadsARealOneWithItsStacksSegmentsAndAnnotations) {
  const auto loaded = read_trace(testing_support::data_file("bert_base_b4_s64_stacks.pickle.zst"));
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  const Trace& trace = loaded->trace;
  EXPECT_EQ(loaded->format, TraceFormat::snapshot_pickle);
  EXPECT_EQ(trace.recording->events.size(), 5802U);
  EXPECT_FALSE(trace.recording->head_lost);
  EXPECT_FALSE(trace.recording->segments.empty());
  EXPECT_FALSE(first_fault(trace).has_value());
  EXPECT_TRUE(findings(trace, 10).empty());
  ASSERT_FALSE(trace.labels.empty());
  const std::string& label = trace.strings[trace.labels[0] - 1];
  EXPECT_EQ(label.substr(0, label.find(" < ")),
            "convert (site-packages/torch/nn/modules/module.py:1370)");
}

TEST(Snapshot, ComesBackTheSameAfterExport) {
  const auto loaded = read_trace(testing_support::data_file("bert_base_b4_s64_stacks.pickle.zst"));
  ASSERT_TRUE(loaded);
  const auto bytes = snapshot_pickle(loaded->trace);
  ASSERT_TRUE(bytes);
  auto again = read_trace_bytes(*bytes, loaded->trace.source);
  ASSERT_TRUE(again) << to_string(again.error());
  // Marks become START and END of annotations and come back as marks.
  EXPECT_EQ(again->trace.ops, loaded->trace.ops);
  EXPECT_EQ(again->trace.times_us, loaded->trace.times_us);
  EXPECT_EQ(*again->trace.recording, *loaded->trace.recording);
}

TEST(Snapshot, AllocatesFirstWhatLivedBeforeTheRecording) {
  // 0x2000 is freed without an alloc; the segment's first block is in use without one.
  const auto loaded = read_trace_bytes(
      snapshot({{"alloc", 0x3000, 100}, {"free_completed", 0x2000, 700}}, 0x100000), "s.pickle");
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  const Trace& trace = loaded->trace;
  ASSERT_EQ(trace.ops.size(), 4U);
  EXPECT_EQ(trace.ops[0], (Op{700, 0, 0, OpKind::allocate, kPreexisting}));
  EXPECT_EQ(trace.ops[1], (Op{500, 1, 0, OpKind::allocate, kPreexisting}));
  EXPECT_EQ(trace.ops[2].kind, OpKind::allocate);
  EXPECT_EQ(trace.ops[3], (Op{0, 0, 0, OpKind::free, 0}));
  EXPECT_TRUE(trace.recording->head_lost);
}

TEST(Snapshot, ReadsTheJsonTwin) {
  const auto loaded = read_trace_bytes(
      R"({"segments":[],"device_traces":[[],[{"action":"segment_alloc","addr":4096,"size":2097152,
          "stream":0,"time_us":1},{"action":"alloc","addr":4096,"size":100,"stream":0,"time_us":2},
          {"action":"oom","device_free":5,"size":1024,"stream":0,"time_us":3}]],
          "allocator_settings":{"PYTORCH_CUDA_ALLOC_CONF":"","max_split_size":134217728,
          "garbage_collection_threshold":0.5,"expandable_segments":false}})",
      "s.json");
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  EXPECT_EQ(loaded->format, TraceFormat::snapshot_json);
  EXPECT_EQ(loaded->trace.ops.size(), 2U);
  EXPECT_EQ(loaded->trace.recording->alloc_conf,
            "max_split_size_mb:128,garbage_collection_threshold:0.5");
}

TEST(Snapshot, AsksWhichDeviceWhenSeveralHaveEntries) {
  const std::string json =
      R"({"segments":[],"device_traces":[[{"action":"alloc","addr":4096,"size":1,"stream":0}],
          [],[{"action":"alloc","addr":8192,"size":2,"stream":0}]]})";
  const auto refused = read_trace_bytes(json, "s.json");
  ASSERT_FALSE(refused);
  EXPECT_EQ(to_string(refused.error()),
            "s.json: several devices have entries (0, 2): --device chooses one");
  const auto chosen = read_trace_bytes(json, "s.json", {.device = 2});
  ASSERT_TRUE(chosen);
  EXPECT_EQ(chosen->trace.ops.at(0).value, 2);
}

TEST(Pickle, RefusesEveryOpcodeThatCouldNameOrCallAnything) {
  const std::string head = "\x80\x04"s;
  for (const auto& [bytes, name] : std::vector<std::pair<std::string, std::string>>{
           {"cos\nsystem\n", "GLOBAL"},
           {"\x8c\x02os\x8c\x06system\x93", "STACK_GLOBAL"},
           {"NR", "REDUCE"},
           {"Nb", "BUILD"},
           {"(ios\nsystem\n", "INST"},
           {"(o", "OBJ"},
           {"N)\x81", "NEWOBJ"},
           {"N)}\x92", "NEWOBJ_EX"},
           {"P1\n", "PERSID"},
           {"NQ", "BINPERSID"},
           {"\x82\x01", "EXT1"},
           {"\x97", "NEXT_BUFFER"}}) {
    const auto document = read_pickle(head + bytes + ".", "s.pickle");
    ASSERT_FALSE(document) << name;
    EXPECT_NE(document.error().message.find("opcode " + name + " is refused"), std::string::npos)
        << document.error().message;
    EXPECT_GE(document.error().at->offset, 2);
  }
}

TEST(Pickle, BelievesNoClaimedLength) {
  // FRAME of 2^60 bytes; texts and integers of more than there is.
  const std::string frame = "\x80\x04\x95"s + std::string(7, '\0') + "\x10"s + "N."s;
  EXPECT_EQ(fault(frame),
            "s.pickle: byte 2: a frame of 1152921504606846976 bytes is claimed, 2 are left");
  EXPECT_EQ(fault("\x80\x04\x8d"s + std::string(7, '\0') + "\x10"s + "N."s),
            "s.pickle: byte 2: 1152921504606846976 bytes are claimed, 2 are left");
  EXPECT_EQ(fault("\x80\x02X\xff\xff\xff\x7f"s + "a."s),
            "s.pickle: byte 2: 2147483647 bytes are claimed, 2 are left");
  EXPECT_EQ(fault("\x80\x02\x8b\xff\xff\xff\xff."s),
            "s.pickle: byte 2: 4294967295 bytes are claimed, 1 are left");
}

TEST(Pickle, TakesDeepNestingWithoutRecursion) {
  constexpr std::size_t kDeep = 1'000'000;
  std::string nested = "\x80\x02"s + std::string(kDeep, ']') + std::string(kDeep - 1, 'a') + ".";
  EXPECT_TRUE(read_pickle(nested, "s.pickle"));
  EXPECT_EQ(fault(nested), "s.pickle: a dict with 'device_traces' and 'segments' is needed");
  EXPECT_FALSE(read_pickle("\x80\x02"s + std::string(kDeep, '(') + ".", "s.pickle"));
  EXPECT_EQ(fault("{\"a\":" + std::string(kDeep, '[')),
            "s.pickle: nested more than 64 levels deep");
}

TEST(Pickle, ReadsIntegersOfEveryWidth) {
  const auto integer = [](const std::string& bytes) {
    const auto document = read_pickle("\x80\x02"s + bytes + ".", "s.pickle");
    return document ? document->root.integer : -424242;
  };
  EXPECT_EQ(integer("K\xff"s), 255);
  EXPECT_EQ(integer("M\xff\xff"s), 65535);
  EXPECT_EQ(integer("J\xff\xff\xff\xff"s), -1);
  EXPECT_EQ(integer("\x8a\x00"s), 0);
  EXPECT_EQ(integer("\x8a\x01\xff"s), -1);
  EXPECT_EQ(integer("\x8a\x02\x00\x80"s), -32768);
  EXPECT_EQ(integer("\x8a\x06\x00\x00\x00\x00\xbb\x7f"s), 0x7fbb00000000);
  EXPECT_EQ(integer("\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00"s), -424242);
}

TEST(Pickle, FaultsAtEveryCutAndCrashesAtNoFlip) {
  const std::string good =
      snapshot({{"segment_alloc", 0x1000, 2097152}, {"alloc", 0x1000, 100}}, 0x100000);
  ASSERT_EQ(fault(good), "no fault");
  for (std::size_t cut = 0; cut < good.size(); ++cut) {
    EXPECT_NE(fault(good.substr(0, cut)), "no fault") << cut;
  }
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      std::string flipped = good;
      flipped[at] = static_cast<char>(static_cast<unsigned char>(flipped[at]) ^ (1U << bit));
      if (const auto loaded = read_trace_bytes(flipped, "s.pickle")) {
        EXPECT_FALSE(first_fault(loaded->trace).has_value()) << at << "." << bit;
      }
    }
  }
}

TEST(Snapshot, NamesTheEntryOfAFault) {
  EXPECT_EQ(fault(snapshot({{"alloc", 0x1000, 1}, {"aloc", 0x2000, 1}})),
            "s.pickle: device_traces[0][1]: unknown action 'aloc'; the nearest is 'alloc'");
  EXPECT_EQ(fault(snapshot({{"alloc", 0x1000, -1}})),
            "s.pickle: device_traces[0][0]: 'size' -1 is no size up to 256 TiB");
  EXPECT_EQ(fault(snapshot({{"alloc", 0x1000, 1}, {"alloc", 0x1000, 1}})),
            "s.pickle: device_traces[0][1]: allocates 0x1000, which is live already");
}

}  // namespace
}  // namespace peakcast
