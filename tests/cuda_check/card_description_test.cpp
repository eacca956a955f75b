#include "cuda_check/card_description.hpp"

#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

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
  card.driver_costs.acquire = {{2_MiB, SimDuration{44'760}}};
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

/// The recorded driver program prints `granularity,REQUEST,TAKEN...,addrs,...` and `NAME,VALUE`.
TEST(ShippedH100, AgreesWithTheRecordedDriver) {
  const char* set = std::getenv("PEAKCAST_GROUNDTRUTH");
  const std::string folder = set != nullptr ? set : PEAKCAST_SOURCE_DIR "/../shared/groundtruth";
  std::ifstream recorded{folder + "/driver/h100_driver_costs.txt"};
  if (!recorded) {
    GTEST_SKIP() << "no recordings beside this checkout";
  }
  std::ifstream file{PEAKCAST_SOURCE_DIR "/sim/device/gpus/h100-80g.json"};
  const Json card = Json::parse(file);
  std::map<std::string, Json> taken;
  for (const Json& use : card["measured"]["page_use"]) {
    taken[use["request_bytes"].dump()] = use["taken_after_bytes"];
  }
  int rows = 0;
  for (std::string line; std::getline(recorded, line);) {
    std::vector<std::string> words;
    std::istringstream cells{line};
    for (std::string word; std::getline(cells, word, ',');) {
      words.push_back(word);
    }
    if (words[0] == "granularity") {
      ++rows;
      Json expected = Json::array();
      for (std::size_t i = 2; i < words.size() && words[i] != "addrs"; ++i) {
        expected.push_back(std::stoll(words[i]));
      }
      EXPECT_EQ(taken[words[1]], expected) << words[1];
    } else if (words[0] == "total") {
      EXPECT_EQ(card["total_bytes"], std::stoll(words[1]));
    } else if (words[0] == "context_bytes") {
      EXPECT_EQ(card["context_bytes"], std::stoll(words[1]));
    } else if (words[0] == "fill") {
      EXPECT_EQ(card["unusable_bytes"], std::stoll(words.back()));
    }
  }
  EXPECT_EQ(rows, 12);
}

}  // namespace
}  // namespace peakcast
