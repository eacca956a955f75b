// PYTORCH_CUDA_ALLOC_CONF as each release reads it (specification, section 18).

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "allocators/pytorch/settings.hpp"

namespace peakcast::pytorch {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

Expected<Settings> parse(std::string_view text, std::string_view version = "") {
  return parse_settings(text, find_version(version).value());
}

/// "column: message", or "ok".
std::string fault(std::string_view text, std::string_view version = "") {
  const auto settings = parse(text, version);
  if (settings) {
    return "ok";
  }
  const auto& at = settings.error().at;
  return (at ? std::to_string(at->column) : "no place") + ": " + settings.error().message;
}

TEST(Settings, DefaultToPytorchsOwn) {
  for (const std::string_view text : {"", "  ", "backend:native"}) {
    const Settings settings = parse(text).value();
    EXPECT_EQ(settings.max_split_size, Settings::kUnlimited);
    EXPECT_EQ(settings.max_non_split_rounding, 20 * kMiB);
    EXPECT_EQ(settings.large_segment_size, 20 * kMiB);
    EXPECT_EQ(settings.garbage_collection_threshold, 0.0);
    EXPECT_EQ(settings.roundup_power2_divisions, (std::array<std::uint64_t, 16>{}));
    EXPECT_FALSE(settings.expandable_segments);
    EXPECT_FALSE(settings.release_lock_on_cudamalloc);
    EXPECT_EQ(settings.per_process_memory_fraction, 1.0);
  }
}

TEST(Settings, ReadEveryKey) {
  const Settings settings =
      parse(
          "max_split_size_mb:128,max_non_split_rounding_mb:64,large_segment_size_mb:32,"
          "garbage_collection_threshold:0.8,roundup_power2_divisions:4,expandable_segments:True,"
          "release_lock_on_cudamalloc:True,per_process_memory_fraction:0.5,backend:native,"
          "graph_capture_record_stream_reuse:False,pinned_use_cuda_host_register:True,"
          "pinned_num_register_threads:8,pinned_use_background_threads:False,"
          "pinned_reserve_segment_size_mb:10")
          .value();
  EXPECT_EQ(settings.max_split_size, 128 * kMiB);
  EXPECT_EQ(settings.max_non_split_rounding, 64 * kMiB);
  EXPECT_EQ(settings.large_segment_size, 32 * kMiB);
  EXPECT_EQ(settings.garbage_collection_threshold, 0.8);
  EXPECT_EQ(settings.roundup_power2_divisions.front(), 4U);
  EXPECT_EQ(settings.roundup_power2_divisions.back(), 4U);
  EXPECT_TRUE(settings.expandable_segments);
  EXPECT_TRUE(settings.release_lock_on_cudamalloc);
  EXPECT_EQ(settings.per_process_memory_fraction, 0.5);
}

TEST(Settings, TakeLeadingDigitsAndDropWhiteSpaceAsPytorchDoes) {
  EXPECT_EQ(parse(" max_split_size_mb : 128MB ").value().max_split_size, 128 * kMiB);
  EXPECT_EQ(parse("max_split_size_mb:25.9").value().max_split_size, 25 * kMiB);
  EXPECT_EQ(parse("max_split_size_mb:+25").value().max_split_size, 25 * kMiB);
  EXPECT_EQ(parse("max_split_size_mb:25,").value().max_split_size, 25 * kMiB);
  EXPECT_TRUE(parse("expandable_segments:\tTrue\n").value().expandable_segments);
  // Before 2.10 only the space itself is dropped.
  EXPECT_EQ(fault("expandable_segments:\tTrue", "2.9"),
            "21: expected True or False for expandable_segments, not '\tTrue'");
}

TEST(Settings, ClampAnEnormousSplitSize) {
  // 2^64 / 2^20 MiB is the most that fits.
  EXPECT_EQ(parse("max_split_size_mb:18446744073709551615").value().max_split_size,
            (Settings::kUnlimited / kMiB) * kMiB);
  EXPECT_EQ(fault("max_split_size_mb:18446744073709551616"),
            "19: '18446744073709551616' is no number that max_split_size_mb can take");
}

TEST(Settings, AllowTheLargeSegmentSizeAsSplitSizeFrom210On) {
  EXPECT_EQ(fault("max_split_size_mb:20", "2.11"), "ok");
  EXPECT_EQ(fault("max_split_size_mb:20", "2.10"), "ok");
  EXPECT_EQ(fault("max_split_size_mb:20", "2.9"),
            "19: max_split_size_mb must be more than 20, the large segment size");
  EXPECT_EQ(fault("max_split_size_mb:19", "2.11"),
            "19: max_split_size_mb must be at least 20, the large segment size");
  EXPECT_EQ(fault("max_non_split_rounding_mb:19"),
            "27: max_non_split_rounding_mb must be at least 20, the large segment size");
}

TEST(Settings, ReadTheLargeSegmentSizeBeforeAllOthers) {
  const Settings settings = parse("max_split_size_mb:15,large_segment_size_mb:12").value();
  EXPECT_EQ(settings.large_segment_size, 12 * kMiB);
  EXPECT_EQ(settings.max_split_size, 15 * kMiB);
  EXPECT_EQ(settings.max_non_split_rounding, 12 * kMiB);  // its default follows
  EXPECT_EQ(fault("max_split_size_mb:30,large_segment_size_mb:40"),
            "19: max_split_size_mb must be at least 40, the large segment size");
  EXPECT_EQ(fault("large_segment_size_mb:10"), "23: large_segment_size_mb must be more than 10");
}

TEST(Settings, RefusePagesThatTheDriverCannotCreate) {
  EXPECT_EQ(fault("large_segment_size_mb:21"), "ok");
  EXPECT_EQ(fault("expandable_segments:True,large_segment_size_mb:22"), "ok");
  EXPECT_EQ(fault("expandable_segments:True,large_segment_size_mb:21"),
            "48: large_segment_size_mb must be even for expandable segments");
}

TEST(Settings, KnowWhichReleaseHasWhichKey) {
  struct Row {
    std::string_view setting;
    std::string_view last_without;
    std::string_view first_with;
  };
  for (const Row& row : {Row{"max_non_split_rounding_mb:30", "2.5", "2.6"},
                         Row{"graph_capture_record_stream_reuse:False", "2.8", "2.9"},
                         Row{"per_process_memory_fraction:0.5", "2.9", "2.10"},
                         Row{"large_segment_size_mb:30", "2.10", "2.11"}}) {
    EXPECT_EQ(fault(row.setting, row.first_with), "ok");
    const std::string key{row.setting.substr(0, row.setting.find(':'))};
    EXPECT_EQ(fault(row.setting, row.last_without),
              "1: PyTorch " + std::string{row.last_without} + " has no setting '" + key + "'");
  }
}

TEST(Settings, SayTheColumnOfWhatIsWrong) {
  EXPECT_EQ(fault("expandable_segments:true"),
            "21: expected True or False for expandable_segments, not 'true'");
  EXPECT_EQ(fault("expandable_segments:True, max_split_sizemb:128"),
            "27: unknown setting 'max_split_sizemb'; the nearest is 'max_split_size_mb'");
  EXPECT_EQ(fault("expandable_segments"), "20: expected ':', the settings string ends");
  EXPECT_EQ(fault("expandable_segments:"), "21: expected True or False for expandable_segments");
  EXPECT_EQ(fault("max_split_size_mb:"), "19: expected a value for max_split_size_mb");
  EXPECT_EQ(fault("max_split_size_mb:many"),
            "19: 'many' is no number that max_split_size_mb can take");
  EXPECT_EQ(fault("max_split_size_mb:-1"), "19: '-1' is no number that max_split_size_mb can take");
  EXPECT_EQ(fault(",expandable_segments:True"), "1: expected a key before ','");
  for (const std::string_view bad : {"0", "1", "1.5", "-0.1", "nan"}) {
    EXPECT_EQ(fault("garbage_collection_threshold:" + std::string{bad}),
              "30: garbage_collection_threshold lies strictly between 0 and 1")
        << bad;
  }
  EXPECT_EQ(fault("per_process_memory_fraction:1.01"),
            "29: per_process_memory_fraction lies between 0 and 1");
  EXPECT_EQ(fault("per_process_memory_fraction:0"), "ok");
  EXPECT_EQ(fault("backend:cuda"), "9: backend is native or cudaMallocAsync");
  EXPECT_EQ(fault("pinned_num_register_threads:3"),
            "29: pinned_num_register_threads is a power of two up to 128");
  EXPECT_EQ(fault("pinned_num_register_threads:256"),
            "29: pinned_num_register_threads is a power of two up to 128");
  EXPECT_EQ(fault("pinned_reserve_segment_size_mb:0"),
            "32: pinned_reserve_segment_size_mb is more than 0");
}

TEST(Settings, KnowBothBackends) {
  EXPECT_TRUE(parse("backend:cudaMallocAsync").value().cuda_malloc_async);
  EXPECT_FALSE(parse("backend:native").value().cuda_malloc_async);
}

TEST(Settings, RefuseWhatNoTraceCanGive) {
  EXPECT_EQ(fault("graph_capture_record_stream_reuse:True").substr(0, 53),
            "35: graph_capture_record_stream_reuse needs the graph");
}

TEST(Settings, PassOverAWrongSeparatorFrom210OnOnly) {
  EXPECT_TRUE(parse("expandable_segments,True").value().expandable_segments);
  EXPECT_EQ(fault("expandable_segments,True", "2.9"), "20: expected ':' before ','");
  EXPECT_EQ(fault("max_split_size_mb:128:expandable_segments:True", "2.10"), "ok");
  EXPECT_EQ(fault("max_split_size_mb:128:expandable_segments:True", "2.9"),
            "22: expected ',' before ':'");
}

TEST(Settings, FillTheTableOfDivisionsFromAList) {
  using Table = std::array<std::uint64_t, 16>;
  const std::string_view list = "roundup_power2_divisions:[256:1,512:2,1024:4,>:8]";
  EXPECT_EQ(parse(list, "2.11").value().roundup_power2_divisions,
            (Table{1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 8, 8, 8, 8, 8}));
  EXPECT_EQ(parse(list, "2.9").value().roundup_power2_divisions,
            (Table{1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 8, 8, 8, 8, 8, 8}));
  // Between listed intervals nothing is rounded; the last interval takes everything beyond 32 GiB.
  EXPECT_EQ(parse("roundup_power2_divisions:[2:4,16:0,65536:8]").value().roundup_power2_divisions,
            (Table{4, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8}));
  EXPECT_EQ(parse("roundup_power2_divisions:[]").value().roundup_power2_divisions, Table{});
}

TEST(Settings, RefuseDivisionsThatAreNoPowersOfTwo) {
  EXPECT_EQ(fault("roundup_power2_divisions:3"),
            "26: roundup_power2_divisions takes a power of two");
  EXPECT_EQ(fault("roundup_power2_divisions:0"),
            "26: roundup_power2_divisions takes a power of two");
  EXPECT_EQ(fault("roundup_power2_divisions:[4:3]"),
            "29: roundup_power2_divisions takes powers of two, or 0 for off");
  EXPECT_EQ(fault("roundup_power2_divisions:[3:4]"),
            "27: the intervals of roundup_power2_divisions are powers of two, in MiB");
  EXPECT_EQ(fault("roundup_power2_divisions:[4:2"),
            "30: roundup_power2_divisions: the list has no ']'");
  EXPECT_EQ(fault("roundup_power2_divisions:[4:"),
            "29: expected a value for roundup_power2_divisions");
  EXPECT_EQ(fault("roundup_power2_divisions:[4"), "28: expected ':', the settings string ends");
}

TEST(Versions, AreListedOldestFirstAndTheNewestIsTheDefault) {
  EXPECT_EQ(versions().front().name, "2.5");
  EXPECT_EQ(find_version("").value().name, versions().back().name);
  EXPECT_EQ(find_version("2.6").value().name, "2.6");
  EXPECT_FALSE(find_version("2.4").has_value());
  EXPECT_NE(find_version("3.0").error().message.find("2.11"), std::string::npos);
}

}  // namespace
}  // namespace peakcast::pytorch
