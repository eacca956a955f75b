#include "sim/trace/snapshot.hpp"

#include <string>
#include <string_view>
#include <utility>

#include <gtest/gtest.h>

#include "sim/trace/byte_source.hpp"
#include "sim/trace/json_document.hpp"
#include "sim/trace/pickle.hpp"
#include "sim/trace/pickle_writer.hpp"
#include "sim/trace/read_trace.hpp"
#include "sim/trace/validate.hpp"
#include "tests/support/program.hpp"

namespace peakcast {
namespace {

using namespace std::string_literals;

constexpr Bytes kRoom{std::int64_t{1} << 30};

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
    const auto document = read_pickle(head + bytes + ".", "s.pickle", kRoom);
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
  EXPECT_TRUE(read_pickle(nested, "s.pickle", kRoom));
  EXPECT_EQ(fault(nested), "s.pickle: segments[0]: the segment is no dict");
  EXPECT_FALSE(read_pickle("\x80\x02"s + std::string(kDeep, '(') + ".", "s.pickle", kRoom));
  EXPECT_EQ(fault("{\"a\":" + std::string(kDeep, '[')),
            "s.pickle: nested more than 64 levels deep");
}

TEST(Pickle, ReadsIntegersOfEveryWidth) {
  const auto integer = [](const std::string& bytes) {
    const auto document = read_pickle("\x80\x02"s + bytes + ".", "s.pickle", kRoom);
    return document ? document->root.integer : -424242;
  };
  EXPECT_EQ(integer("K\xff"s), 255);
  EXPECT_EQ(integer("M\xff\xff"s), 65535);
  EXPECT_EQ(integer("J\xff\xff\xff\xff"s), -1);
  EXPECT_EQ(integer("\x8a\x00"s), 0);
  EXPECT_EQ(integer("\x8a\x01\xff"s), -1);
  EXPECT_EQ(integer("\x8a\x02\x00\x80"s), -32768);
  EXPECT_EQ(integer("\x8a\x06\x00\x00\x00\x00\xbb\x7f"s), 0x7fbb00000000);
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

/// {"segments": [one, wholly in use], "device_traces": [[segment_alloc, alloc]], …}, with a frame
/// `f'é中\n` at line 2^64-1; by Python 3.11's pickle.dumps(…, 0) and (…, 1).
const std::vector<std::string>& old_protocols() {
  static const std::vector<std::string> kPickles{
      std::string{"(dp0\nVsegments\np1\n(lp2\n(dp3\nVdevice\np4\nI0\nsVaddress\np5\nL1396"
                  "37976727552L\nsVtotal_size\np6\nI20971520\nsVstream\np7\nI0\nsVsegm"
                  "ent_type\np8\nVlarge\np9\nsVis_expandable\np10\nI00\nsVsegment_pool"
                  "_id\np11\n(I0\nI0\ntp12\nsVblocks\np13\n(lp14\n(dp15\ng5\nL13963797672"
                  "7552L\nsVsize\np16\nI20971520\nsVrequested_size\np17\nI20971520\nsV"
                  "state\np18\nVactive_allocated\np19\nsasasVdevice_traces\np20\n(lp2"
                  "1\n(lp22\n(dp23\nVaction\np24\nVsegment_alloc\np25\nsVaddr\np26\nL139"
                  "637976727552L\nsg16\nI20971520\nsg7\nI0\nsVtime_us\np27\nI1\nsa(dp28"
                  "\ng24\nValloc\np29\nsg26\nL139637976727552L\nsg16\nI20971520\nsg7\nI0"
                  "\nsg27\nI2\nsVframes\np30\n(lp31\n(dp32\nVname\np33\nVf'\351\\u4e2d\\u000a"
                  "\np34\nsVfilename\np35\nVx.cpp\np36\nsVline\np37\nL18446744073709551"
                  "615L\nsasaasVhalf\np38\nF0.5\nsVyes\np39\nI01\nsVnone\np40\nNsVneg\np4"
                  "1\nI-5\ns.",
                  728},
      std::string{
          "}q\000(X\010\000\000\000segmentsq\001]q\002}q\003("
          "X\006\000\000\000deviceq\004K\000X\007\000\000\000addressq\005L1396"
          "37976727552L\nX\n\000\000\000total_sizeq\006J\000\000@"
          "\001X\006\000\000\000streamq\007K\000X\014\000\000\000segme"
          "nt_typeq\010X\005\000\000\000largeq\011X\015\000\000\000is_"
          "expandableq\nI00\nX\017\000\000\000segment_po"
          "ol_idq\013(K\000K\000tq\014X\006\000\000\000blocksq\015]q\016}q\017("
          "h\005L139637976727552L\nX\004\000\000\000"
          "sizeq\020J\000\000@\001X\016\000\000\000requested_sizeq\021J\000\000@"
          "\001X\005\000\000\000stateq\022X\020\000\000\000active"
          "_allocatedq\023uauaX\015\000\000\000device_tracesq\024]q\025]q\026(}q\027("
          "X\006\000\000\000actionq\030"
          "X\015\000\000\000segment_"
          "allocq\031X\004\000\000\000addrq\032L139637976727552L\nh\020J\000\000@\001h\007K\000"
          "X\007\000\000\000time_usq\033K\001u}q\034("
          "h\030X\005\000\000\000allocq\035h\032L139637976727552L\nh\020J\000\000"
          "@\001h\007K\000h\033K\002X\006\000\000\000framesq\036]q\037}q "
          "(X\004\000\000\000nameq!X\010\000\000\000f'\303\251\344\270\255\nq\"X\010\000\000"
          "\000filenameq#X\005\000\000\000x.cppq$X\004\000\000\000lineq%L18446744073709551615L\nuau"
          "eaX\004\000\000\000halfq&G?\340\000\000\000\000\000\000X\003\000\000\000yesq'"
          "I01\nX\004\000\000\000noneq(NX\003\000\000\000negq)J\373"
          "\377\377\377u.",
          665},
  };
  return kPickles;
}

TEST(Snapshot, ReadsProtocols0And1AndALineOf64Bits) {
  for (const std::string& pickle : old_protocols()) {
    const auto loaded = read_trace_bytes(pickle, "s.pickle");
    ASSERT_TRUE(loaded) << to_string(loaded.error());
    EXPECT_EQ(loaded->format, TraceFormat::snapshot_pickle);
    const Recording& recording = *loaded->trace.recording;
    ASSERT_EQ(recording.events.size(), 2U);
    EXPECT_EQ(recording.events[1].size, Bytes{20971520});
    EXPECT_EQ(recording.segments.at(0).size, Bytes{20971520});
    EXPECT_FALSE(recording.head_lost);
    EXPECT_EQ(loaded->trace.strings.at(0), "f'\xc3\xa9\xe4\xb8\xad  (x.cpp:0)");
    for (std::size_t cut = 0; cut < pickle.size(); ++cut) {
      EXPECT_NE(fault(pickle.substr(0, cut)), "no fault") << cut;
    }
  }
}

constexpr std::string_view kBlock =
    R"({"size":1048576,"requested_size":1000,"state":"active_allocated"})";

std::string segment_json(std::string_view blocks, std::string_view more = "") {
  return R"({"device":0,"address":1048576,"total_size":2097152,"stream":0,"segment_type":"small")" +
         std::string{more} + R"(,"blocks":[)" + std::string{blocks} + "]}";
}

TEST(Snapshot, ReadsABareListOfSegments) {
  const auto loaded = read_trace_bytes(
      "[" + segment_json(std::string{kBlock} + R"(,{"size":1048576,"state":"inactive"})") + "]",
      "s.json");
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  EXPECT_TRUE(loaded->notes.empty());
  ASSERT_EQ(loaded->trace.ops.size(), 1U);
  EXPECT_EQ(loaded->trace.ops[0], (Op{1000, 0, 0, OpKind::allocate, kPreexisting}));
  EXPECT_TRUE(loaded->trace.recording->head_lost);
}

TEST(Snapshot, TakesTheDeviceThatHasSegmentsWhereNoneHasEntries) {
  std::string one = segment_json(kBlock);
  one.replace(one.find("\"device\":0"), 10, "\"device\":3");
  EXPECT_TRUE(read_trace_bytes("[" + one + "]", "s.json"));
  EXPECT_EQ(fault("[" + one + "," + segment_json(kBlock) + "]"),
            "s.pickle: several devices have segments (0, 3): --device chooses one");
}

/// segment  [ 1 MiB in use | 1 MiB that no block tells of ]
TEST(Snapshot, TakesBlocksThatDoNotTileAndSaysSo) {
  const auto loaded = read_trace_bytes("[" + segment_json(kBlock) + "]", "s.json");
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  ASSERT_EQ(loaded->notes.size(), 1U);
  EXPECT_NE(loaded->notes[0].find("segments[0]"), std::string::npos);
  const RecordedSegment& segment = loaded->trace.recording->segments.at(0);
  EXPECT_EQ(segment.size, Bytes{2097152});
  EXPECT_EQ(segment.blocks.at(1), (RecordedBlock{.size = Bytes{1048576}}));

  // Too many: the segment is as long as its blocks.
  const std::string three =
      std::string{kBlock} + "," + std::string{kBlock} + "," + std::string{kBlock};
  const auto longer = read_trace_bytes("[" + segment_json(three) + "]", "s.json");
  ASSERT_TRUE(longer) << to_string(longer.error());
  EXPECT_EQ(longer->notes.size(), 1U);
  EXPECT_EQ(longer->trace.recording->segments.at(0).size, Bytes{3145728});
}

TEST(Snapshot, CountsPrivatePoolsFromOne) {
  const auto loaded = read_trace_bytes("[" + segment_json("", R"(,"segment_pool_id":[0,7])") + "," +
                                           segment_json("", R"(,"segment_pool_id":[0,0])") + "]",
                                       "s.json");
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  EXPECT_EQ(loaded->trace.recording->segments.at(0).pool, 1U);
  EXPECT_EQ(loaded->trace.recording->segments.at(1).pool, 0U);
}

TEST(Snapshot, TwoSegmentsAtOneAddressAreFound) {
  const auto loaded =
      read_trace_bytes("[" + segment_json("") + "," + segment_json("") + "]", "s.json");
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  const auto odd = findings(loaded->trace, 1);
  ASSERT_EQ(odd.size(), 1U);
  EXPECT_EQ(
      odd[0].what,
      "two final segments lie over each other: 2097152 bytes at 100000 and 2097152 at 100000");
}

TEST(Snapshot, IgnoresMarksOfTheProgram) {
  const auto loaded = read_trace_bytes(
      R"({"segments":[],"device_traces":[[{"action":"user_defined","addr":0,"size":0,"stream":0},
          {"action":"alloc","addr":4096,"size":1,"stream":0}]]})",
      "s.json");
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  EXPECT_EQ(loaded->trace.recording->events.size(), 1U);
}

/// Each byte of a pickle may make a list: what a file may take is bounded by what it holds.
TEST(Snapshot, TakesNoMoreMemoryThanItsBytesMay) {
  const std::string lists = "\x80\x02"s + std::string(1'000'000, ']') + "."s;
  EXPECT_FALSE(read_pickle(lists, "s.pickle", Bytes{1 << 20}));
  const auto refused = read_trace_bytes(lists, "s.pickle", {.max_memory = Bytes{8 << 20}});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("--max-memory"), std::string::npos);
  EXPECT_FALSE(read_json_document("[" + std::string(100'000, '1') + "]", "s.json", Bytes{10}));
}

TEST(Snapshot, AListOfBlocksThatManySegmentsShareIsRefused) {
  // 10 segments, one list of 100 000 blocks by the memo: more than the file holds.
  std::string pickle = "\x80\x02}(X\x08\x00\x00\x00segments]("s;
  const auto text = [](const std::string& word) {
    return "X"s + static_cast<char>(word.size()) + "\x00\x00\x00"s + word;
  };
  for (int i = 0; i < 10; ++i) {
    pickle += "}(" + text("address") + "J" + "\x00\x00"s + static_cast<char>(16 * (i + 1)) +
              "\x00"s + text("total_size") + "J\x00\x20\x00\x00"s + text("blocks");
    if (i == 0) {
      pickle += "](}(" + text("size") + "K\x01" + text("state") + text("inactive") + "uq\x01";
      for (int block = 1; block < 100'000; ++block) {
        pickle += "h\x01";
      }
      pickle += "eq\x00"s;
    } else {
      pickle += "h\x00"s;
    }
    pickle += "u";
  }
  pickle += "e" + text("device_traces") + "]u.";
  EXPECT_NE(fault(pickle).find("its blocks are another segment's too"), std::string::npos)
      << fault(pickle);
}

}  // namespace
}  // namespace peakcast
