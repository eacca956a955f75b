// A card's description alone decides: what `gpus NAME --format json` writes is what `--gpu FILE`
// reads, and each field of it has an effect.

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/report.hpp"

namespace peakcast::testing_support {
namespace {

using Pointer = json::json_pointer;

/// `words` on the card `file`, as JSON without the flags.
json answer(Words words, const std::string& file) {
  if (words.front() == "gpus") {
    words.push_back(file);
  } else {
    words.insert(words.end(), {"--gpu", file});
  }
  words.insert(words.end(), {"--format", "json"});
  const ProgramResult result = run_program(words);
  EXPECT_LT(result.status, 2) << result.err;
  json report = json::parse(result.out, nullptr, false);
  report.erase("inputs");
  return report;
}

json card_of(const std::string& name) {
  return json::parse(run_program({"gpus", name, "--format", "json"}).out)["gpus"][0];
}

Words tiny(const Words& more = {}) {
  Words words{"predict", "--model", "bert-tiny",    "--batch", "2",
              "--seq",   "64",      "--iterations", "2"};
  return with(words, more);
}

class CardFile : public testing::Test {
 protected:
  std::string write(const json& card) {
    const std::string path = folder_.file("card" + std::to_string(++count_) + ".json");
    std::ofstream{path} << card.dump();
    return path;
  }

 private:
  ScratchFolder folder_{};
  int count_{};
};

TEST_F(CardFile, WhatGpusWritesIsWhatGpuReads) {
  for (const std::string name : {"h100-80g", "a100-40g", "t4-16g"}) {
    const ProgramResult written = run_program({"gpus", name, "--format", "json"});
    const std::string whole = write(json::parse(written.out));
    const std::string card = write(card_of(name));
    for (const Words& words : {tiny(), tiny({"--parallel", "fsdp2", "--world", "16"})}) {
      const json built_in = answer(words, name);
      EXPECT_EQ(built_in, answer(words, whole)) << name;
      EXPECT_EQ(built_in, answer(words, card)) << name;
    }
    EXPECT_EQ(card_of(name), card_of(card)) << name;
  }
  const std::string several = write(json::parse(run_program({"gpus", "--format", "json"}).out));
  EXPECT_EQ(run_program({"gpus", several}).status, 2);
}

/// A field, what it is changed to, and a run that shows it.
struct Effect {
  std::string field;
  json value;
  Words words;
};

/// Groups of at most some GiB a second and hundreds of ms: what no run misses.
std::vector<Effect> effects() {
  const Words amp{"--precision", "bf16-amp"};
  const Words ranks{"--parallel", "fsdp2", "--world", "16"};
  const Words expandable{"--alloc-conf", "expandable_segments:True"};
  const json slow = {{{"size_bytes", 1}, {"cost_ns", 77'000'000}}};
  return {
      {"/name", "mine", tiny()},
      {"/card", "MINE", tiny()},
      {"/total_bytes", 7'000'000'000, tiny()},
      {"/total_source", "a guess", {"gpus"}},
      {"/total_range_bytes", {1'000'000'000, 90'000'000'000}, {"gpus"}},
      {"/compute_major", 8, tiny(amp)},
      {"/compute_minor", 5, tiny(amp)},
      {"/multiprocessors", 7, tiny()},
      {"/threads_per_multiprocessor",
       64,
       {"predict", "--model", "bert-tiny", "--batch", "64", "--seq", "512", "--iterations", "1"}},
      {"/l2_cache_bytes", 1000, tiny()},
      {"/rates/bf16_flops_per_second", 1'000'000'000, tiny(amp)},
      {"/rates/fp16_flops_per_second", 1'000'000'000, tiny({"--precision", "fp16-amp"})},
      {"/rates/tf32_flops_per_second", 1'000'000'000, tiny()},
      {"/rates/fp32_flops_per_second", 1'000'000'000, tiny()},
      {"/rates/device_bytes_per_second", 1'000'000'000, tiny()},
      {"/rates/cache_bytes_per_second", 1'000'000'000, tiny()},
      {"/rates/host_to_device_bytes_per_second", 1'000'000, tiny()},
      {"/rates/device_to_host_bytes_per_second", 1'000'000, tiny({"--precision", "fp16-amp"})},
      {"/rates/link_bytes_per_second", 1'000'000, tiny(ranks)},
      {"/rates/network_bytes_per_second", 1'000'000, tiny(ranks)},
      {"/rates/cards_per_node", 2, tiny(ranks)},
      {"/rates/kernel_floor_ns", 1'000'000, tiny()},
      {"/rates/tile_overhead_ns", 1'000'000, tiny()},
      {"/rates/link_latency_ns", 1'000'000, tiny(ranks)},
      {"/rates/network_latency_ns", 1'000'000, tiny(ranks)},
      {"/rates/collective_floor_ns", 1'000'000, tiny(ranks)},
      {"/driver_costs/acquire", slow, tiny()},
      {"/driver_costs/create", slow, tiny(expandable)},
      {"/driver_costs/map", slow, tiny(expandable)},
      {"/driver_costs/set_access", slow, tiny(expandable)},
      {"/driver_costs/pool_grow", slow, tiny({"--policy", "cuda-malloc-async"})},
      {"/driver_costs/set_access_mapping_ns", 1'000'000, tiny({"--policy", "gmlake"})},
      {"/driver_costs/pool_hit_ns", 1'000'000, tiny({"--policy", "cuda-malloc-async"})},
      {"/driver_costs/pool_free_ns", 1'000'000, tiny({"--policy", "cuda-malloc-async"})},
      {"/driver_costs/kernel_launch_ns", 1'000'000, tiny()},
  };
}

TEST_F(CardFile, EachFieldHasAnEffect) {
  const json card = card_of("h100-80g");
  std::set<std::string> tried;
  for (const Effect& effect : effects()) {
    tried.insert(effect.field);
    json with = card;
    if (effect.field == "/rates/fp32_flops_per_second") {
      with["compute_major"] = 7;  // tensor cores take no fp32 there
    }
    if (effect.field == "/total_bytes") {
      with.erase("total_range_bytes");
    }
    const std::string before = write(with);
    ASSERT_NE(with.at(Pointer{effect.field}), effect.value) << effect.field;
    with[Pointer{effect.field}] = effect.value;
    EXPECT_TRUE(answer(effect.words, before) != answer(effect.words, write(with)))
        << effect.field << " decides nothing";
  }
  // No field was left out.
  for (const auto& [key, value] : card.items()) {
    // Seen only when a card is full or gives memory back: unit/simulated_device_test.
    const std::set<std::string> elsewhere{
        "gpu",           "measured", "outside", "granularity_bytes", "shared_page_limit_bytes",
        "unusable_bytes"};
    if (elsewhere.contains(key)) {
      continue;
    }
    if (!value.is_object()) {
      EXPECT_TRUE(tried.contains("/" + key)) << key;
      continue;
    }
    for (const auto& [inner, unused] : value.items()) {
      if (inner != "measured" && inner != "source" && inner != "release" && inner != "unmap" &&
          inner != "destroy") {
        EXPECT_TRUE(tried.contains("/" + key + "/" + inner)) << key << " " << inner;
      }
    }
  }
}

TEST_F(CardFile, EachRowOfWhatLiesOutsideCountsWhereItSaysSo) {
  const json card = card_of("h100-80g");
  for (std::size_t row = 0; row < card["outside"].size(); ++row) {
    const std::string when = card["outside"][row]["when"];
    Words words = tiny({"--precision", "bf16-amp"});
    const auto add = [&](const Words& more) {
      words.insert(words.end(), more.begin(), more.end());
    };
    if (when == "sharding" || when == "nccl") {
      add({"--parallel", "fsdp2", "--world", "2"});
    } else if (when == "nccl_one_rank") {
      add({"--parallel", "ddp", "--world", "1"});
    } else if (when == "ddp") {
      add({"--parallel", "ddp", "--world", "2"});
    } else if (when == "zero_1_2") {
      add({"--parallel", "zero2", "--world", "2"});
    } else if (when == "zero_3") {
      add({"--parallel", "zero3", "--world", "2"});
    }
    json with = card;
    with["outside"][row]["bytes"] = with["outside"][row]["bytes"].get<std::int64_t>() + 1'000'000;
    const json before = answer(words, write(card));
    const json after = answer(words, write(with));
    EXPECT_EQ(after["peak"]["device_bytes"].get<std::int64_t>(),
              before["peak"]["device_bytes"].get<std::int64_t>() + 1'000'000)
        << when;
  }
}

TEST_F(CardFile, UnknownFieldsAreNamedWithTheNearest) {
  const auto message = [&](const json& card) { return run_program({"gpus", write(card)}).err; };
  json card = {{"name", "mine"},
               {"total_bytes", 8'000'000'000},
               {"compute_major", 8},
               {"compute_minor", 6},
               {"multiprocessors", 30}};
  EXPECT_EQ(message(card), "");
  card["rates"] = {{"bf16_flops_per_sec", 1}};
  EXPECT_NE(message(card).find("unknown field of 'rates' 'bf16_flops_per_sec'; the nearest is "
                               "'bf16_flops_per_second'"),
            std::string::npos)
      << message(card);
  card["rates"] = {{"bf16_flops_per_second", 0}};
  EXPECT_NE(message(card).find("'rates.bf16_flops_per_second' is not a whole number"),
            std::string::npos);
  card.erase("rates");
  card["driver_costs"] = {
      {"acquire", {{{"size_bytes", 2}, {"cost_ns", 1}}, {{"size_bytes", 2}, {"cost_ns", 1}}}}};
  EXPECT_NE(message(card).find("ascending by size"), std::string::npos);
  card.erase("driver_costs");
  card["granularity_bytes"] = 4 << 20;
  EXPECT_NE(message(card).find("'granularity_bytes' is not"), std::string::npos);
  card.erase("granularity_bytes");
  card["costs_like"] = "h100";
  EXPECT_NE(message(card).find("unknown card 'h100'; the nearest is 'h100-80g'"),
            std::string::npos);
}

}  // namespace
}  // namespace peakcast::testing_support
