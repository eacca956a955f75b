#include "sim/report/oom_text.hpp"

#include <gtest/gtest.h>

namespace peakcast {
namespace {

using namespace literals;

TEST(OomText, ReadsTheWordsOfToday) {
  const OomText oom =
      parse_oom_text(
          "Traceback ...\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 954.00 "
          "MiB. "
          "GPU 0 has a total capacity of 79.18 GiB of which 512.50 MiB is free. Process 4711 has "
          "3.00 GiB memory in use. Including non-PyTorch memory, this process has 75.67 GiB memory "
          "in\nuse. 76.00 GiB allowed; Of the allocated memory 70.00 GiB is allocated by PyTorch, "
          "with 1.50 GiB allocated in private pools (e.g., CUDA Graphs), and 4.25 GiB is reserved "
          "by PyTorch but unallocated. If reserved but unallocated memory is large try setting ...")
          .value();
  EXPECT_EQ(oom.tried, 954_MiB);
  EXPECT_EQ(oom.gpu, 0);
  EXPECT_EQ(oom.free, 512_MiB + 512_KiB);
  EXPECT_EQ(oom.named_others, 3_GiB);
  EXPECT_EQ(oom.allowed, 76_GiB);
  EXPECT_EQ(oom.allocated, 70_GiB);
  EXPECT_EQ(oom.private_pools, 1_GiB + 512_MiB);
  EXPECT_EQ(oom.reserved(), 74_GiB + 256_MiB);
  EXPECT_EQ(oom.outside()->count(), 1524713390);  // 75.67 - 74.25 GiB
}

TEST(OomText, ReadsTheWordsBefore21) {
  const OomText oom =
      parse_oom_text(
          "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 1; 15.78 "
          "GiB total capacity; 11.50 GiB already allocated; 182.75 MiB free; 14.00 GiB "
          "reserved in total by PyTorch) If reserved memory is >> allocated memory ...")
          .value();
  EXPECT_EQ(oom.gpu, 1);
  EXPECT_EQ(oom.tried, 2_GiB);
  EXPECT_EQ(oom.unallocated, 2_GiB + 512_MiB);
  EXPECT_FALSE(oom.outside());
  EXPECT_EQ(read_oom(oom).cause, OomCause::fragmentation);
}

std::string message(const char* tried, const char* free, const char* unallocated,
                    const char* more = "") {
  return std::string{"CUDA out of memory. Tried to allocate "} + tried +
         ". GPU 0 has a total capacity of 80.00 GiB of which " + free + " is free. " + more +
         "Of the allocated memory 40.00 GiB is allocated by PyTorch, and " + unallocated +
         " is reserved by PyTorch but unallocated.";
}

TEST(OomText, SaysWhatFollows) {
  const auto cause = [](const std::string& text) {
    return read_oom(parse_oom_text(text).value()).cause;
  };
  EXPECT_EQ(cause(message("2.00 GiB", "1.00 GiB", "0 bytes")), OomCause::demand);
  EXPECT_EQ(cause(message("2.00 GiB", "1.00 GiB", "2.00 GiB")), OomCause::fragmentation);
  EXPECT_EQ(cause(message("2.00 GiB", "30.00 GiB", "0 bytes", "41.00 GiB allowed; ")),
            OomCause::limit);
  EXPECT_EQ(cause(message("2.00 GiB", "1.00 GiB", "0 bytes",
                          "Process 12 has 38.00 GiB memory in use. Including non-PyTorch memory, "
                          "this process has 41.00 GiB memory in use. ")),
            OomCause::other_processes);
}

TEST(OomText, RefusesWhatIsNoSuchMessage) {
  EXPECT_FALSE(parse_oom_text(""));
  EXPECT_FALSE(parse_oom_text("CUDA out of memory."));
  const auto half = parse_oom_text(
      "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 80.00 GiB");
  ASSERT_FALSE(half);
  EXPECT_NE(half.error().message.find("how much of the card is free"), std::string::npos);
  EXPECT_FALSE(
      parse_oom_text(std::string(1 << 20, 'x') + "out of memory" + std::string(1 << 20, '1')));
}

}  // namespace
}  // namespace peakcast
