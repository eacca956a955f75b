// What a capacity planner asks of cards: one command each, and its answer at a glance.

#include <algorithm>
#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/report.hpp"

namespace peakcast::testing_support {
namespace {

std::string text_of(const Words& words, int status = 0) {
  const ProgramResult result = run_program(words);
  EXPECT_EQ(result.status, status) << result.err;
  return result.out;
}

/// The lines of a text that begin with `beginning`.
std::vector<std::string> lines_with(const std::string& text, const std::string& beginning) {
  std::vector<std::string> found;
  std::istringstream lines{text};
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(line.size(), 80U) << line;
    if (line.starts_with(beginning)) {
      found.push_back(line);
    }
  }
  return found;
}

/// Which cards fine-tune Llama-3.1-8B at 8 k tokens? With LoRA on bf16 weights, 16 GB of weights
/// alone: none with 24 GB whose logits (8192 x 128256 in fp32: 3.9 GiB, several times) come on top.
TEST(Planner, WhichCardsFineTuneAnEightBAtEightThousandTokens) {
  const Words words{"predict", "--model",      "llama-3.1-8b", "--seq",
                    "8192",    "--lora",       "16",           "--precision",
                    "bf16",    "--checkpoint", "full",         "--iterations",
                    "2",       "--gpu",        "all"};
  const json report = report_of(words, 0);
  const json& cards = report["cards"];
  ASSERT_GE(cards.size(), 17U);
  std::map<std::string, std::string> verdicts;
  for (std::size_t i = 0; i < cards.size(); ++i) {
    verdicts[cards[i]["gpu"]["name"]] = cards[i]["verdict"];
    if (i > 0) {
      EXPECT_GE(cards[i]["gpu"]["total_bytes"], cards[i - 1]["gpu"]["total_bytes"]);
    }
    const bool fits = cards[i]["verdict"] != "out_of_memory";
    EXPECT_EQ(cards[i]["oom"].is_null(), fits);
    EXPECT_EQ(cards[i]["step_ns"].is_number(), fits);
  }
  for (const char* const card : {"t4-16g", "v100-16g", "l4-24g", "rtx4090-24g"}) {
    EXPECT_EQ(verdicts.at(card), "out_of_memory") << card;
  }
  for (const char* const card : {"a100-80g", "h100-80g", "h200-141g", "b200-180g"}) {
    EXPECT_EQ(verdicts.at(card), "fits") << card;
  }
  EXPECT_EQ(verdicts.at(report["smallest_fit"]) == "out_of_memory", false);
}

TEST(Planner, ATableOfCardsHasALineForEach) {
  const Words words{"predict", "--model", "bert-tiny", "--seq", "64", "--gpu", "all"};
  const json report = report_of(words, 0);
  const std::string text = text_of(words);
  for (const json& card : report["cards"]) {
    const std::string name = card["gpu"]["name"];
    EXPECT_EQ(lines_with(text, name + " ").size(), 1U) << text;
  }
  const std::string smallest = report["smallest_fit"];
  EXPECT_EQ(smallest, report["cards"][0]["gpu"]["name"]);
  EXPECT_NE(text.find(smallest + ", the smallest"), std::string::npos) << text;
}

TEST(Planner, EachCardOfATableIsThatCardsOwnAnswer) {
  const Words words{"predict", "--model", "bert-large", "--batch", "36", "--seq", "512"};
  const json both = report_of(with(words, {"--gpu", "l40s-48g,a100-40g"}), 0);
  ASSERT_EQ(both["cards"].size(), 2U);
  for (const json& card : both["cards"]) {
    const std::string name = card["gpu"]["name"];
    const json alone = report_of(with(words, {"--gpu", name}), card["verdict"] == "out_of_memory");
    for (const char* const key : {"verdict", "peak", "headroom", "oom", "outside", "iterations"}) {
      EXPECT_EQ(card[key], alone[key]) << name << " " << key;
    }
    if (card["oom"].is_null()) {
      EXPECT_EQ(card["step_ns"], alone["iterations"].back()["duration_ns"]);
    }
  }
}

/// A100-40G against L40S: which batch does each take, and which is faster?
TEST(Planner, AnA100AgainstAnL40S) {
  const json report = report_of({"fit", "--model", "bert-large", "--seq", "512", "--max", "40",
                                 "--step", "4", "--gpu", "l40s-48g,a100-40g"},
                                0);
  const json& cards = report["cards"];
  ASSERT_EQ(cards.size(), 2U);
  EXPECT_EQ(cards[0]["gpu"]["name"], "a100-40g");
  EXPECT_LT(cards[0]["largest_fit"], cards[1]["largest_fit"]);
  for (const json& card : cards) {
    const json alone = report_of({"fit", "--model", "bert-large", "--seq", "512", "--max", "40",
                                  "--step", "4", "--gpu", card["gpu"]["name"]},
                                 0);
    EXPECT_EQ(card["largest_fit"], alone["largest_fit"]);
    EXPECT_EQ(card["first_oom"], alone["first_oom"]);
    EXPECT_EQ(card["trials"], alone["trials"]);
  }
  const json steps = report_of({"predict", "--model", "bert-large", "--batch", "8", "--seq", "512",
                                "--gpu", "a100-40g,l40s-48g"},
                               0);
  EXPECT_EQ(steps["smallest_fit"], "a100-40g");
  const bool first = steps["cards"][0]["step_ns"] <= steps["cards"][1]["step_ns"];
  EXPECT_EQ(steps["fastest"], steps["cards"][first ? 0 : 1]["gpu"]["name"]);
}

TEST(Planner, TheExitStatusSaysWhetherAnyCardFits) {
  const Words large{"predict", "--model", "llama-2-7b", "--seq", "512", "--iterations", "1"};
  const Words cards{"--gpu", "t4-16g,v100-16g"};
  const std::string text = text_of(with(large, cards), 1);
  EXPECT_NE(text.find("NOTHING FITS"), std::string::npos) << text;
  EXPECT_EQ(report_of(with(large, cards), 1)["smallest_fit"], nullptr);
  EXPECT_EQ(run_program(with(large, {"--gpu", "t4-16g,h200-141g"})).status, 0);
  Words fit = large;
  fit.front() = "fit";
  const std::string none = text_of(with(fit, {"--max", "2", "--gpu", "t4-16g,v100-16g"}), 1);
  EXPECT_EQ(lines_with(none, "NOTHING FITS").size(), 1U) << none;
}

TEST(Planner, TablesOfCardsAreCsvToo) {
  const Words tiny{"--model", "bert-tiny", "--seq", "64", "--gpu", "t4-16g,h100-80g"};
  const std::string predict =
      text_of(with(with({"predict"}, tiny), {"--batch", "2", "--format", "csv"}));
  EXPECT_EQ(predict.substr(0, predict.find('\n')),
            "gpu,total_bytes,verdict,peak_allocated_bytes,peak_reserved_bytes,peak_device_bytes,"
            "spare_bytes,retries,step_ns");
  const std::string fit = text_of(with(with({"fit"}, tiny), {"--max", "4", "--format", "csv"}));
  std::istringstream lines{fit};
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(line,
            "gpu,total_bytes,vary,largest_fit,smallest_fit,first_oom,verdict,peak_reserved_bytes,"
            "spare_bytes");
  std::getline(lines, line);
  EXPECT_TRUE(line.starts_with("t4-16g,")) << line;
  EXPECT_NE(line.find(",batch,4,,,"), std::string::npos) << line;
}

TEST(Planner, ListsOfCardsAreReadStrictly) {
  const auto refusal = [](const std::string& cards, const Words& more = {}) {
    const ProgramResult result =
        run_program(with({"predict", "--model", "bert-tiny", "--seq", "64", "--gpu", cards}, more));
    EXPECT_EQ(result.status, 2) << cards;
    EXPECT_EQ(result.out, "") << cards;
    return result.err;
  };
  EXPECT_NE(refusal("h100-80g,").find("empty name"), std::string::npos);
  EXPECT_NE(refusal("h100-80g,h100-80g").find("stands twice"), std::string::npos);
  EXPECT_NE(refusal("h100-80g,a100-81g").find("a100-80g"), std::string::npos);
  EXPECT_NE(refusal("all", {"--capacity", "24GiB"}).find("--capacity"), std::string::npos);
  EXPECT_NE(refusal("all", {"--advise"}).find("--advise"), std::string::npos);
  EXPECT_NE(refusal("all", {"--engine", "captured"}).find("one card"), std::string::npos);
}

// -- plan ----------------------------------------------------------------------------------------

Words split_words(const std::string& text) {
  std::istringstream stream{text};
  Words words;
  for (std::string word; stream >> word;) {
    words.push_back(word);
  }
  return words;
}

/// On a card where some combinations fit, some by retries or barely, and some do not.
const Words kSmallRun{"--model", "bert-tiny",       "--seq",        "512",
                      "--set",   "hidden_size=512", "--iterations", "2",
                      "--limit", "700MiB",          "--set",        "num_hidden_layers=4"};

Words plan(const Words& more) {
  return with(with({"plan", "--global-batch", "16", "--world", "1..16"}, kSmallRun), more);
}

/// What is skipped changes no answer: the whole grid is run and gives the same.
TEST(Planner, WhatAPlanSkipsCouldNotBeAmongItsAnswers) {
  for (const Words& more :
       {Words{"--top", "3"}, Words{"--top", "12"}, Words{"--sort", "cards", "--top", "4"}}) {
    const json pruned = report_of(plan(more), 0);
    const json whole = report_of(plan(with(more, {"--prune", "off"})), 0);
    EXPECT_EQ(pruned["candidates"], whole["candidates"]);
    EXPECT_EQ(whole["combinations"]["slower"], 0);
    EXPECT_GT(whole["combinations"]["fitting"], 0);
    EXPECT_GT(whole["combinations"]["out_of_memory"], 0);
    if (more.front() == "--sort") {  // more cards than the answers have
      EXPECT_GT(pruned["combinations"]["slower"], 0);
    }
    for (const json* report : {&pruned, &whole}) {
      const json& counts = (*report)["combinations"];
      EXPECT_EQ(counts["all"], counts["fitting"].get<int>() + counts["out_of_memory"].get<int>() +
                                   counts["slower"].get<int>() + counts["not_modelled"].get<int>());
    }
  }
}

TEST(Planner, EachCandidateIsWhatPredictSaysOfItsFlags) {
  const json report = report_of(plan({"--top", "12"}), 0);
  ASSERT_GT(report["candidates"].size(), 3U);
  for (const json& candidate : report["candidates"]) {
    const std::string flags = candidate["flags"];
    const json alone = report_of(with(with({"predict"}, kSmallRun), split_words(flags)), 0);
    EXPECT_EQ(candidate["peak_device_bytes"], alone["peak"]["device_bytes"]) << flags;
    EXPECT_EQ(candidate["peak_reserved_bytes"], alone["peak"]["reserved_bytes"]) << flags;
    EXPECT_EQ(candidate["verdict"], alone["verdict"]) << flags;
    EXPECT_EQ(candidate["headroom"], alone["headroom"]) << flags;
    const std::int64_t step = candidate["step_ns"];
    EXPECT_EQ(step, alone["iterations"].back()["duration_ns"].get<std::int64_t>()) << flags;
    EXPECT_EQ(candidate["tokens_per_second"], 16LL * 512 * 1'000'000'000 / step) << flags;
    EXPECT_EQ(candidate["world"].get<int>() * candidate["batch"].get<int>() *
                  candidate["accumulate"].get<int>(),
              16)
        << flags;
  }
}

TEST(Planner, AnswersStandInTheOrderAskedFor) {
  const json by_time = report_of(plan({}), 0);
  const json by_cards = report_of(plan({"--sort", "cards"}), 0);
  const auto in_order = [](const json& report, const auto& key) {
    const json& all = report["candidates"];
    for (std::size_t i = 1; i < all.size(); ++i) {
      EXPECT_LE(key(all[i - 1]), key(all[i])) << i;
    }
  };
  in_order(by_time, [](const json& row) { return row["step_ns"].get<std::int64_t>(); });
  in_order(by_cards, [](const json& row) {
    return std::pair{row["world"].get<int>(), row["step_ns"].get<std::int64_t>()};
  });
  EXPECT_LE(by_cards["candidates"][0]["world"], by_time["candidates"][0]["world"]);
}

/// How many H100s for a 70B in FSDP? AdamW on bf16 parameters keeps four tensors of 141 GB: 564 GB
/// are more than 7 x 79 GiB and, with the activations, more than 8.
TEST(Planner, HowManyH100sForASeventyBillionModelInFsdp) {
  const Words words{
      "plan",     "--model",      "llama-3.1-70b", "--seq",      "4096",  "--global-batch",
      "64",       "--precision",  "bf16",          "--parallel", "fsdp2", "--gpu",
      "h100-80g", "--world",      "4..32",         "--sort",     "cards", "--top",
      "1",        "--checkpoint", "full",          "--batch",    "1"};
  const json report = report_of(words, 0);
  ASSERT_EQ(report["candidates"].size(), 1U);
  const json& best = report["candidates"][0];
  EXPECT_EQ(best["world"], 16);
  EXPECT_EQ(best["parallel"], "fsdp2");
  EXPECT_GT(report["combinations"]["out_of_memory"], 0);
  const std::string text = text_of(words);
  EXPECT_EQ(lines_with(text, "   16  ").size(), 1U) << text;
  EXPECT_NE(text.find("--parallel fsdp2 --world 16 --batch 1 --accumulate 4 --checkpoint full"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("Tensor, pipeline"), std::string::npos) << text;
}

TEST(Planner, APlanThatNothingFitsEndsWithOne) {
  const Words nothing{"plan", "--model", "bert-tiny", "--seq",   "512",  "--global-batch",
                      "4",    "--world", "1..4",      "--limit", "20MiB"};
  const json report = report_of(nothing, 1);
  EXPECT_TRUE(report["candidates"].empty());
  EXPECT_NE(text_of(nothing, 1).find("NOTHING FITS"), std::string::npos);
}

TEST(Planner, PlansAreRefusedInOneLine) {
  const auto refusal = [](const Words& more) {
    const ProgramResult result =
        run_program(with({"plan", "--model", "bert-tiny", "--seq", "64"}, more));
    EXPECT_EQ(result.status, 2);
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    return result.err;
  };
  const auto says = [](const std::string& text, const std::string& what) {
    return text.find(what) != std::string::npos;
  };
  EXPECT_TRUE(says(refusal({}), "--global-batch is missing"));
  EXPECT_TRUE(says(refusal({"--global-batch", "7", "--world", "8..64"}), "divides the global"));
  EXPECT_TRUE(says(refusal({"--global-batch", "16", "--world", "3"}), "3 cards do not divide"));
  EXPECT_TRUE(says(refusal({"--global-batch", "16", "--world", "8..x"}), "8..512"));
  EXPECT_TRUE(says(refusal({"--global-batch", "16", "--accumulate", "2"}), "--accumulate"));
  EXPECT_TRUE(says(refusal({"--global-batch", "16", "--gpu", "all"}), "one card"));
  EXPECT_TRUE(says(refusal({"--global-batch", "16", "--batch", "3"}), "--batch must divide"));
  EXPECT_TRUE(says(refusal({"--global-batch", "16", "--shard", "full"}), "fsdp1"));
  EXPECT_TRUE(says(refusal({"--global-batch", "16", "--sort", "tme"}), "time"));
}

}  // namespace
}  // namespace peakcast::testing_support
