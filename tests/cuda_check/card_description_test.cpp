#include "cuda_check/card_description.hpp"

#include <gtest/gtest.h>

#include "sim/device/gpu_description.hpp"

namespace peakcast {
namespace {

using namespace literals;

/// Four requests of 1 MiB take two pages, four of 3 MiB take two pages each.
std::vector<PageUse> uses() {
  return {{.request = 1_MiB,
           .taken_after = {2_MiB, 2_MiB, 4_MiB, 4_MiB},
           .addresses = {Address{0x2000000}, Address{0x2100000}, Address{0x1000000},
                         Address{0x1100000}}},
          {.request = 3_MiB,
           .taken_after = {4_MiB, 8_MiB, 12_MiB, 16_MiB},
           .addresses = {Address{0x9000000}, Address{0x8000000}, Address{0x7000000},
                         Address{0x6000000}}}};
}

TEST(CardDescription, TellsWhichRequestsShareAPage) {
  EXPECT_EQ(shared_page_limit(uses(), 2_MiB), 1_MiB);
  EXPECT_EQ(shared_page_limit({}, 2_MiB), Bytes{});
}

TEST(CardDescription, NamesTheOrderOfAddresses) {
  EXPECT_EQ(address_order(uses()[0].addresses), "mixed");
  EXPECT_EQ(address_order(uses()[1].addresses), "descending");
  EXPECT_EQ(address_order({Address{1}, Address{2}}), "ascending");
}

TEST(CardDescription, WritesWhatTheProgramReads) {
  CardDescription card;
  card.spec = {.name = "TEST 24GB",
               .total = 24_GiB,
               .granularity = 2_MiB,
               .compute_major = 8,
               .compute_minor = 9};
  card.multiprocessors = 58;
  card.threads_per_multiprocessor = 1536;
  card.context = 300_MiB;
  card.page_use = uses();
  card.acquire = {{2_MiB, SimDuration{44'760}}};
  const auto gpu = parse_gpu_description(json_text(card_json(card)), "card.json");
  ASSERT_TRUE(gpu) << to_string(gpu.error());
  EXPECT_EQ(gpu->spec.total, 24_GiB);
  EXPECT_EQ(gpu->spec.compute_minor, 9);
  EXPECT_EQ(gpu->multiprocessors, 58);
  EXPECT_EQ(gpu->threads_per_multiprocessor, 1536);
  bool found = false;
  for (const OutsideItem& item : gpu->outside) {
    if (item.item == "context") {
      found = true;
      EXPECT_EQ(item.size, 300_MiB);
      EXPECT_TRUE(item.measured);
    }
  }
  EXPECT_TRUE(found);
}

}  // namespace
}  // namespace peakcast
