#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/report.hpp"

namespace peakcast::testing_support {
namespace {

Words tiny() { return {"predict", "--model", "bert-tiny", "--batch", "4", "--seq", "64"}; }

TEST(Predict, PrintsTheContractsKeys) {
  const json report = report_of(tiny(), 0);
  for (const char* key : {"schema_version", "tool", "version", "command", "inputs", "verdict",
                          "peak", "peak_breakdown", "outside", "iterations", "oom", "counts"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  EXPECT_EQ(report["verdict"], "fits");
  EXPECT_TRUE(report["oom"].is_null());
  EXPECT_EQ(report["inputs"]["model"], "bert-tiny");
  EXPECT_EQ(report["iterations"].size(), 3);
  EXPECT_EQ(report["iterations"][0]["batch"], 4);
  EXPECT_EQ(report["iterations"][0]["seq"], 64);
  EXPECT_EQ(report["peak"]["device_bytes"].get<std::int64_t>(),
            report["peak"]["reserved_bytes"].get<std::int64_t>() +
                report["outside"]["total_bytes"].get<std::int64_t>());
}

TEST(Predict, SaysTheSameTwice) {
  const Words words = with(tiny(), {"--format", "json", "--precision", "fp16-amp"});
  EXPECT_EQ(run_program(words).out, run_program(words).out);
}

// Every family and setting: what is live at the peak is what is allocated there, no level is below
// the one that it contains.
TEST(Predict, BreakdownsAddUp) {
  const std::vector<Words> models{
      {"bert-tiny"},
      {"gpt2", "--set", "n_layer=2"},
      {"llama-1b", "--set", "num_hidden_layers=2"},
      {"mistral-7b", "--set", "num_hidden_layers=1", "--set", "sliding_window=32"},
      {"qwen2-0.5b", "--set", "num_hidden_layers=2"},
      {"mixtral-small", "--set", "num_hidden_layers=1"},
      {"vit-base", "--set", "num_hidden_layers=2"},
      {"t5-small", "--set", "num_layers=2", "--set", "num_decoder_layers=2"}};
  const std::vector<Words> settings{
      {"--precision", "bf16-amp", "--optimizer", "adamw-fused", "--checkpoint", "full"},
      {"--precision", "fp16-amp", "--attention", "eager", "--clip-grad", "--accumulate", "2"},
      {"--precision", "bf16", "--optimizer", "sgd", "--zero-grad", "after"},
      {"--optimizer", "adafactor", "--gpu", "a100-40g", "--checkpoint", "full-reentrant"}};
  for (const Words& model : models) {
    for (const Words& setting : settings) {
      const json report = report_of(
          with(with(with({"predict", "--model"}, model), setting), {"--batch", "2", "--seq", "48"}),
          0);
      std::int64_t sum = 0;
      for (const auto& [part, bytes] : report["peak_breakdown"].items()) {
        sum += bytes.get<std::int64_t>();
      }
      const json& peak = report["peak"];
      EXPECT_EQ(sum, peak["allocated_bytes"]) << model.front() << setting[1];
      EXPECT_LE(peak["requested_bytes"], peak["allocated_bytes"]) << model.front() << setting[1];
      EXPECT_LE(peak["allocated_bytes"], peak["active_bytes"]) << model.front() << setting[1];
      EXPECT_LE(peak["active_bytes"], peak["reserved_bytes"]) << model.front() << setting[1];
    }
  }
}

TEST(Predict, MoreBatchNeedsMoreMemory) {
  std::int64_t before = 0;
  for (const char* batch : {"1", "2", "3", "8", "40"}) {
    const json report =
        report_of({"predict", "--model", "bert-base", "--batch", batch, "--seq", "128"}, 0);
    const auto peak = report["peak"]["requested_bytes"].get<std::int64_t>();
    EXPECT_GE(peak, before) << batch;
    before = peak;
  }
}

TEST(Predict, ShapesOfIterationsCycle) {
  const json report = report_of(
      {"predict", "--model", "bert-tiny", "--batches", "2x8,3x16", "--iterations", "5"}, 0);
  ASSERT_EQ(report["iterations"].size(), 5);
  EXPECT_EQ(report["iterations"][3]["batch"], 3);
  EXPECT_EQ(report["iterations"][4]["seq"], 8);
}

std::int64_t last_step_ns(const json& report) {
  return report["iterations"].back()["duration_ns"].get<std::int64_t>();
}

TEST(Predict, ASlowHostMakesAHostBoundStepLongerAndOneStreamsMemoryNoOther) {
  const json usual = report_of(tiny(), 0);
  const json slow = report_of(with(tiny(), {"--host-speed", "50"}), 0);
  EXPECT_GT(last_step_ns(slow), last_step_ns(usual) * 3 / 2);
  EXPECT_EQ(slow["peak"], usual["peak"]);
  EXPECT_EQ(run_program(with(tiny(), {"--host-speed", "0"})).status, 2);
}

// A new shape is a new execution plan of cuDNN's attention; the same again is not.
TEST(Predict, ANewShapePaysForItsAttentionPlans) {
  const json report = report_of({"predict", "--model", "bert-tiny", "--precision", "bf16-amp",
                                 "--batches", "4x64,2x128", "--iterations", "4"},
                                0);
  const auto step = [&](std::size_t i) {
    return report["iterations"][i]["duration_ns"].get<std::int64_t>();
  };
  EXPECT_GT(step(1), step(3) + 100'000'000);
  EXPECT_LT(step(2), 50'000'000);
}

// GradScaler reads the overflow flag before it steps: the optimizer's launches come after the
// backward has ended.
TEST(Predict, AGradientScalerWaitsForTheBackward) {
  const Words words{"predict", "--model", "bert-large",         "--batch", "16", "--seq",
                    "512",     "--set",   "num_hidden_layers=4"};
  const json scaled = report_of(with(words, {"--precision", "fp16-amp"}), 0);
  const json plain = report_of(with(words, {"--precision", "bf16-amp"}), 0);
  const auto idle = [](const json& report) {
    return report["iterations"].back()["split"]["host_ns"].get<std::int64_t>();
  };
  EXPECT_GT(idle(scaled), idle(plain) + 1'000'000);
}

TEST(Predict, ADispatchModeAddsGradientsOutOfPlace) {
  const auto allocations = [](const json& report) {
    return report["counts"]["allocs"].get<std::int64_t>();
  };
  EXPECT_GT(allocations(report_of(with(tiny(), {"--dispatch-mode"}), 0)),
            allocations(report_of(tiny(), 0)));
}

// The driver's pool answers to the clock also where the program has one stream. What an H100
// reserved after each iteration (recording bert_large_varlen_async, 2026-11).
TEST(Predict, TheDriversPoolIsTimed) {
  const std::string shapes =
      "28x288,85x96,128x64,85x96,21x384,128x64,18x448,16x512,85x96,85x96,36x224,51x160,128x64,"
      "128x64,128x64,36x224,18x448,21x384,28x288,21x384,28x288,64x128,85x96,64x128";
  const json report =
      report_of({"predict", "--model", "bert-large", "--task", "mlm", "--iterations", "24",
                 "--batches", shapes, "--precision", "bf16-amp", "--policy", "cuda-malloc-async"},
                0);
  ASSERT_EQ(report["iterations"].size(), 24U);
  for (std::size_t i = 0; i < 24; ++i) {
    const std::int64_t mebibytes = i == 0 ? 13120 : i == 1 ? 15968 : i < 7 ? 16448 : 16480;
    EXPECT_EQ(report["iterations"][i]["peak_reserved_bytes"], mebibytes << 20) << i;
  }
  EXPECT_EQ(report["peak"]["allocated_bytes"], report["peak"]["requested_bytes"]);
}

TEST(Predict, PyTorchsOwnSettingsTakeTheDriversPool) {
  const Words backend{"--alloc-conf", "backend:cudaMallocAsync"};
  const json named = report_of(with(tiny(), {"--policy", "cuda-malloc-async"}), 0);
  const json asked = report_of(with(tiny(), backend), 0);
  EXPECT_EQ(asked["peak"], named["peak"]);
  EXPECT_EQ(asked["iterations"], named["iterations"]);
  const Words both = with(backend, {"--policy", "cuda-malloc-async"});
  EXPECT_EQ(report_of(with(tiny(), both), 0)["peak"], named["peak"]);
  EXPECT_NE(asked["peak"], report_of(tiny(), 0)["peak"]);
  // Two allocators at once, and a string that PyTorch would not take.
  EXPECT_EQ(run_program(with(tiny(), with(backend, {"--policy", "pytorch"}))).status, 2);
  EXPECT_EQ(run_program(with(tiny(), {"--alloc-conf", "backend:cudaMallocAsync,x:1"})).status, 2);

  const std::string recording = data_file("bert_large_fp32_b8_s128.csv.zst");
  for (const Words& words : {backend, both}) {
    EXPECT_EQ(report_of(with({"replay", recording}, words), 0)["policy"], "cuda-malloc-async");
  }
  EXPECT_EQ(report_of({"compare", recording, "--policy", "cuda-malloc-async,bfc", "--alloc-conf",
                       "backend:cudaMallocAsync"},
                      0)["policies"]
                .size(),
            2);
}

TEST(TraceGenerate, WritesTheForwardPassForGraphviz) {
  const ScratchFolder folder;
  const std::string dot = folder.file("forward.dot");
  const auto generate = [&](const std::string& trace) {
    return run_program({"trace", "generate", trace, "--model", "bert-tiny", "--graph", dot}).status;
  };
  ASSERT_EQ(generate(folder.file("a.pkt")), 0);
  const std::string text = bytes_of_file(dot);
  EXPECT_TRUE(text.starts_with("digraph forward {"));
  EXPECT_NE(text.find("layer_norm"), std::string::npos);
  EXPECT_NE(text.find(" FLOP, "), std::string::npos);
  // What is there is not overwritten, and nothing else is written then.
  EXPECT_EQ(generate(folder.file("b.pkt")), 2);
  EXPECT_FALSE(std::ifstream{folder.file("b.pkt")}.good());
}

// Recorded on an H100: trains at batch 16, runs out at 17 in iteration 1, in the backward pass,
// asking for 1014 MiB (oom_bert_large_bf16amp_s512_cap16).
TEST(Predict, AnOutOfMemoryHasItsPlaceAndWhatWouldHelp) {
  const json report = report_of({"predict", "--model", "bert-large", "--precision", "bf16-amp",
                                 "--batch", "17", "--limit", "17179869183"},
                                1);
  EXPECT_EQ(report["verdict"], "out_of_memory");
  EXPECT_EQ(report["oom"]["iteration"], 1);
  EXPECT_EQ(report["oom"]["phase"], "backward");
  EXPECT_TRUE(report["oom"]["message"].get<std::string>().starts_with(
      "CUDA out of memory. Tried to allocate 1014.00 MiB."));
  EXPECT_EQ(report["iterations"].size(), 1);
  ASSERT_FALSE(report["remedies"].empty());
  bool accumulates = false;
  for (const json& remedy : report["remedies"]) {
    EXPECT_TRUE(remedy["fits"]);
    EXPECT_GE(remedy["spare_bytes"], 0);
    accumulates = accumulates || remedy["flags"] == "--batch 1 --accumulate 17";
  }
  EXPECT_TRUE(accumulates) << report["remedies"].dump(2);
}

// Neither expandable segments nor checkpointing alone is enough.
TEST(Predict, AdviceIsOfSetsThatFitSortedByTheirStep) {
  const json report = report_of({"predict", "--model", "llama-1b", "--seq", "32768", "--precision",
                                 "bf16", "--gpu", "rtx4090-24g"},
                                1);
  bool together = false;
  std::int64_t before = 0;
  for (const json& remedy : report["remedies"]) {
    together =
        together || remedy["flags"] == "--alloc-conf expandable_segments:True --checkpoint full";
    const bool other_card = remedy["flags"].get<std::string>().starts_with("--gpu");
    if (!other_card) {
      EXPECT_LE(remedy["peak_device_bytes"], report["gpu"]["total_bytes"]);
    }
    EXPECT_GE(remedy["step_ns"], before);
    before = remedy["step_ns"];
  }
  EXPECT_TRUE(together) << report["remedies"].dump(2);
  EXPECT_TRUE(report["remedies_complete"]);
}

// Following it leads where it says; a step keeps its samples.
TEST(Predict, AdviceHoldsWhenItIsFollowed) {
  const Words run{"predict", "--model", "bert-base", "--set",    "num_hidden_layers=2",
                  "--seq",   "512",     "--gpu",     "a100-40g", "--capacity",
                  "4GiB"};
  const json report = report_of(with(run, {"--batch", "100"}), 1);
  ASSERT_FALSE(report["remedies"].empty());
  for (const json& remedy : report["remedies"]) {
    Words words = run;
    std::istringstream flags{remedy["flags"].get<std::string>()};
    std::int64_t samples = 1;
    bool split = false;
    for (std::string word, last; flags >> word; last = word) {
      words.push_back(word);
      if (last == "--batch" || last == "--accumulate" || last == "--world") {
        samples *= std::stoll(word);
        split = true;
      }
    }
    EXPECT_TRUE(!split || samples == 100) << remedy["flags"];
    const json followed = report_of(with(words, split ? Words{} : Words{"--batch", "100"}), 0);
    EXPECT_EQ(followed["peak"]["reserved_bytes"], remedy["peak_reserved_bytes"]) << remedy["flags"];
    EXPECT_EQ(followed["verdict"], remedy["verdict"]);
  }
}

TEST(Predict, IsTightBelowTheMarginThatIsWanted) {
  const json fits = report_of(with(tiny(), {"--margin", "1GiB"}), 0);
  EXPECT_EQ(fits["verdict"], "fits");
  EXPECT_TRUE(fits["headroom"]["tight_because"].empty());
  const json tight = report_of(with(tiny(), {"--margin", "99%"}), 0);
  EXPECT_EQ(tight["verdict"], "tight");
  EXPECT_EQ(tight["headroom"]["tight_because"].size(), 1);
  EXPECT_EQ(tight["headroom"]["spare_bytes"], fits["headroom"]["spare_bytes"]);
  EXPECT_EQ(run_program(with(tiny(), {"--margin", "120%"})).status, 2);
  EXPECT_EQ(run_program(with(tiny(), {"--margin", "-1GiB"})).status, 2);
}

// The same run, with just what it reserves to spare, and with less than what the recordings of
// runs like it were off.
TEST(Predict, IsTightByRetriesAndByWhatIsNotKnown) {
  const Words run{"predict", "--model", "bert-large",  "--batch", "16",
                  "--seq",   "512",     "--precision", "bf16-amp"};
  const json free = report_of(run, 0);
  const auto reserved = free["peak"]["reserved_bytes"].get<std::int64_t>();
  const auto limited = [&](std::int64_t limit) {
    return report_of(with(run, {"--limit", std::to_string(limit)}), 0);
  };
  EXPECT_EQ(limited(reserved)["verdict"], "fits");  // like runs were exact: nothing is unknown
  const json retries = report_of({"predict", "--model", "llama-1b", "--precision", "bf16",
                                  "--checkpoint", "full", "--seq", "48128", "--limit", "40GiB"},
                                 0);
  EXPECT_EQ(retries["verdict"], "tight");
  EXPECT_GT(retries["headroom"]["retries"], 0);
  EXPECT_EQ(retries["headroom"]["retries"], retries["counts"]["alloc_retries"]);
  // On a card of which nothing outside the allocator was measured.
  const json other = report_of(with(run, {"--gpu", "a100-40g", "--capacity", "16.6GiB"}), 0);
  EXPECT_EQ(other["verdict"], "tight");
  EXPECT_GT(other["headroom"]["unmeasured_bytes"], 500 << 20);
}

TEST(Predict, SaysHowManyRecordingsStandBehindIt) {
  const auto evidence = [](const Words& more) {
    return report_of(with({"predict", "--seq", "64", "--set", "num_hidden_layers=1"}, more),
                     0)["evidence"];
  };
  const json bert = evidence({"--model", "bert-large", "--precision", "bf16-amp"});
  EXPECT_GE(bert["recordings"], 10);
  EXPECT_EQ(bert["exact"], bert["recordings"]);
  EXPECT_TRUE(bert["no_recording"].empty());
  const json other_card = evidence({"--model", "bert-large", "--gpu", "l4-24g"});
  EXPECT_EQ(other_card["no_recording"], json::array({"on l4-24g"}));
  // A policy that no recording has: nothing is like it, and the worst error of all stands for it.
  const json none = evidence({"--model", "bert-large", "--policy", "buddy"});
  EXPECT_EQ(none["recordings"], 0);
  EXPECT_GT(none["worst_reserved_error_ppm"], 0);
}

// The recorded searches of groundtruth/oom on one GPU, each trial there in a process of its own.
TEST(Fit, FindsTheRecordedLimits) {
  struct Recorded {
    Words words;
    std::int64_t largest_fit;
    std::int64_t first_oom;
    std::int64_t iteration;
  };
  const std::string gib16 = "17179869183";
  const std::string gib24 = "25769803775";
  const std::string gib40 = "42949672959";
  const Words bert_amp{"--model", "bert-large", "--precision", "bf16-amp", "--seq",
                       "512",     "--vary",     "batch",       "--max",    "99"};
  const Words bert{"--model", "bert-large", "--seq", "128", "--vary", "batch", "--max", "299"};
  const Words gpt2{"--model",     "gpt2-long", "--set",  "n_positions=65536",
                   "--precision", "bf16-amp",  "--vary", "seq",
                   "--step",      "256",       "--max",  "65280"};
  const std::vector<Recorded> searches{
      {with(bert_amp, {"--limit", gib16}), 16, 17, 1},
      {with(bert_amp, {"--limit", gib24}), 26, 27, 2},
      {with(bert_amp, {"--limit", gib40}), 49, 50, 1},
      {with(bert, {"--limit", gib16}), 47, 48, 1},
      {with(bert, {"--limit", gib24}), 76, 77, 1},
      {with(bert, {"--limit", gib40}), 136, 137, 1},
      {with(gpt2, {"--limit", gib16}), 8704, 8960, 1},
      {with(gpt2, {"--limit", gib16, "--checkpoint", "full"}), 16128, 16384, 2},
      {with(gpt2, {"--limit", gib24, "--checkpoint", "full"}), 24576, 24832, 2}};
  for (const Recorded& search : searches) {
    const json report = report_of(with({"fit"}, search.words), 0);
    EXPECT_EQ(report["largest_fit"], search.largest_fit);
    EXPECT_EQ(report["first_oom"], search.first_oom);
    EXPECT_EQ(report["first_oom_at"]["iteration"], search.iteration);
    EXPECT_EQ(report["first_oom_at"]["phase"], "backward");
  }
}

// Under 40 GiB it trains at 49 152 tokens, not at 50 176 and 51 200, and again at 56 320; an H100
// said the same of each of these.
TEST(Fit, ListsWhatFitsBeyondTheFirstOutOfMemory) {
  const json report =
      report_of({"fit", "--model", "llama-1b", "--precision", "bf16", "--checkpoint", "full",
                 "--vary", "seq", "--step", "1024", "--max", "65536", "--limit", "40GiB"},
                0);
  EXPECT_EQ(report["largest_fit"], 49152);
  EXPECT_EQ(report["first_oom"], 50176);
  ASSERT_EQ(report["islands"].size(), 1);
  EXPECT_LE(report["islands"][0]["from"], 56320);
  EXPECT_EQ(report["islands"][0]["to"], 56320);
  EXPECT_TRUE(report["every_step_tried"]);
  for (const json& trial : report["trials"]) {
    EXPECT_EQ(trial["fits"], trial["verdict"] != "out_of_memory");
  }
}

// Beyond `hopeless` nothing is tried, and nothing there would fit.
TEST(Fit, TriesEachStepUpToWhereNoAllocatorCouldHelp) {
  const Words words{"--model", "bert-base", "--seq", "128", "--limit", "4GiB"};
  const json report = report_of(with({"fit", "--vary", "batch", "--max", "300"}, words), 0);
  const auto hopeless = report["hopeless"].get<std::int64_t>();
  EXPECT_EQ(report["trials"].size(), hopeless);
  EXPECT_EQ(report["trials"].back()["value"], hopeless);
  for (const std::int64_t batch : {hopeless + 1, hopeless + 7, std::int64_t{300}}) {
    EXPECT_EQ(run_program(with(with({"predict", "--batch", std::to_string(batch)}, words),
                               {"--format", "json"}))
                  .status,
              1);
  }
}

TEST(Fit, NamesWhatVariesInItsHeader) {
  const auto header = [](const Words& more) {
    return run_program(with({"fit", "--model", "llama-1b", "--set", "num_hidden_layers=1", "--max",
                             "2", "--seq", "64"},
                            more))
        .out;
  };
  EXPECT_NE(header({"--vary", "batch"}).find("batch x sequence 1..2 x 64"), std::string::npos);
  EXPECT_NE(header({"--vary", "world", "--parallel", "fsdp2"}).find("fsdp2 on 1..2 ranks"),
            std::string::npos);
}

TEST(Fit, SaysNullWhereNothingIsFound) {
  const json nothing = report_of(
      {"fit", "--model", "bert-large", "--vary", "batch", "--max", "4", "--limit", "1GiB"}, 1);
  EXPECT_TRUE(nothing["largest_fit"].is_null());
  EXPECT_EQ(nothing["first_oom"], 1);
  const json everything = report_of(
      {"fit", "--model", "bert-tiny", "--vary", "seq", "--max", "512", "--step", "128"}, 0);
  EXPECT_EQ(everything["largest_fit"], 512);
  EXPECT_TRUE(everything["first_oom"].is_null());
  EXPECT_TRUE(everything["first_oom_at"].is_null());
}

TEST(Catalogue, ListsModelsAndCards) {
  const json models = report_of({"models"}, 0);
  bool found = false;
  for (const json& row : models["models"]) {
    found = found || (row["model"] == "bert-large" && row["parameters"] == 335174458);
  }
  EXPECT_TRUE(found);
  const json gpus = report_of({"gpus", "h100-80g"}, 0);
  ASSERT_EQ(gpus["gpus"].size(), 1);
  EXPECT_EQ(gpus["gpus"][0]["total_bytes"], 85017493504);
  EXPECT_TRUE(gpus["gpus"][0]["measured"]);
  const ProgramResult config = run_program({"models", "gpt2"});
  EXPECT_EQ(config.status, 0);
  EXPECT_EQ(json::parse(config.out)["n_embd"], 768);
}

TEST(Predict, TakesAConfigFileAndACardFile) {
  const ScratchFolder folder;
  std::ofstream{folder.file("config.json")} << run_program({"models", "bert-tiny"}).out;
  std::ofstream{folder.file("card.json")}
      << R"({"name": "mine", "total_bytes": 8589934592, "compute_major": 8, "compute_minor": 6,
             "multiprocessors": 30})";
  const json report = report_of({"predict", "--model", folder.file("config.json"), "--gpu",
                                 folder.file("card.json"), "--batch", "4", "--seq", "64"},
                                0);
  EXPECT_EQ(report["gpu"]["total_bytes"], 8589934592);
  for (const json& item : report["outside"]["items"]) {
    EXPECT_FALSE(item["measured"]);
  }
}

TEST(Predict, TakesTheTypeThatTheConfigNamesUnlessToldOtherwise) {
  const json named = report_of({"predict", "--model", "qwen3-0.6b", "--seq", "8"}, 0);
  EXPECT_EQ(named["inputs"]["precision"], "bf16");
  const json told =
      report_of({"predict", "--model", "qwen3-0.6b", "--seq", "8", "--precision", "fp32"}, 0);
  EXPECT_EQ(told["inputs"]["precision"], "fp32");
  EXPECT_GT(told["peak"]["allocated_bytes"], named["peak"]["allocated_bytes"]);
  EXPECT_NE(
      run_program({"predict", "--model", "qwen3-0.6b", "--seq", "8"}).out.find("the config's"),
      std::string::npos);
}

TEST(Predict, AdaptersTakeLessThanTheModel) {
  const auto peak = [](Words words) {
    Words all{"predict", "--model", "qwen3-0.6b", "--seq", "64"};
    all.insert(all.end(), words.begin(), words.end());
    return report_of(all, 0)["peak"]["allocated_bytes"].get<std::int64_t>();
  };
  const std::int64_t full = peak({});
  const std::int64_t lora = peak({"--lora", "8"});
  const std::int64_t quantised = peak({"--lora", "8", "--quantize", "nf4"});
  EXPECT_LT(lora, full);
  EXPECT_LT(quantised, lora);
  EXPECT_LT(peak({"--optimizer", "adamw8bit"}), full);
}

struct BadCall {
  Words words;
  std::string message;
};

TEST(Predict, BadInputIsOneErrorThatNamesItAndExitsWithTwo) {
  const ScratchFolder folder;
  std::ofstream{folder.file("no_layers.json")}
      << R"({"model_type": "bert", "vocab_size": 100, "hidden_size": 64,
             "num_attention_heads": 4, "intermediate_size": 128})";
  std::ofstream{folder.file("unknown.json")} << R"({"model_type": "mamba", "hidden_size": 64})";
  std::ofstream{folder.file("cut.json")} << "{\n  \"model_type\": \"bert\",\n  \"hid";
  const std::vector<BadCall> calls{
      {{}, "--model is missing"},
      {{"--model", "bert-lrge"}, "the nearest is 'bert-large'"},
      {{"--model", folder.file("none.json")}, "no such file"},
      {{"--model", folder.file("no_layers.json")}, "field 'num_hidden_layers' is missing"},
      {{"--model", folder.file("unknown.json")},
       "field 'model_type': architecture 'mamba' is not modelled"},
      {{"--model", folder.file("cut.json")}, "cut.json:3:"},
      {{"--model", "bert-large", "--set", "num_attention_heads=7"},
       "field 'num_attention_heads' is 7, which does not divide hidden_size (1024)"},
      {{"--model", "bert-large", "--set", "hidden_size=0"}, "field 'hidden_size' is 0"},
      {{"--model", "bert-large", "--set", "hidden_size=99999999999"}, "field 'hidden_size' is"},
      {{"--model", "bert-large", "--set", "hiden_size=64"}, "the nearest is 'hidden_size'"},
      {{"--model", "bert-large", "--set", "hidden_size"}, "is not KEY=VALUE"},
      {{"--model", "bert-large", "--task", "causal-lm"}, "task 'causal-lm' is not one of bert's"},
      {{"--model", "bert-large", "--seq", "513"}, "does not fit bert-large's 512 positions"},
      {{"--model", "bert-large", "--batch", "0"}, "--batch: 0 is not in"},
      {{"--model", "bert-large", "--batch", "x"}, "is not a whole number"},
      {{"--model", "bert-large", "--batches", "4x"}, "is not BATCHxSEQ"},
      {{"--model", "bert-large", "--batches", "4x8", "--batch", "2"}, "give one of them"},
      {{"--model", "bert-large", "--precision", "bf16amp"}, "the nearest is 'bf16-amp'"},
      {{"--model", "bert-large", "--gpu", "a100"}, "there are: a100-40g, a100-80g"},
      {{"--model", "bert-large", "--world", "8"}, "--world needs --parallel"},
      {{"--model", "bert-large", "--lora-targets", "query"}, "--lora-targets needs --lora"},
      {{"--model", "bert-large", "--lora", "4", "--lora-targets", "qery"},
       "the nearest is 'query'"},
      {{"--model", "bert-large", "--quantize", "nf4"}, "--quantize needs --lora"},
      {{"--model", "bert-large", "--freeze", "("}, "is not a regular expression"},
      {{"--model", "bert-large", "--checkpoint", "every-0"}, "is not every-N"},
      {{"--model", "gpt-oss-20b", "--attention", "sdpa"}, "has eager attention only"},
      {{"--model", "bert-large", "--shard", "full"}, "--shard needs --parallel fsdp1"},
      {{"--model", "bert-large", "--parallel", "ddp", "--world", "2", "--rank", "2"},
       "--rank 2 is not below --world 2"},
      {{"--model", "bert-large", "--framework", "pytorch-1.0"}, "--framework"},
      {{"--model", "bert-large", "--policy", "pytorhc"}, "pytorch"},
      {{"--model", "bert-large", "--alloc-conf", "expandable_segment:True"}, "expandable_segment"},
      {{"--model", "bert-large", "--limit", "12Q"}, "--limit"},
      {{"--model", "bert-large", "--capacity", "100MiB"}, "less than what lies outside"},
      {{"--model", "llama-1b", "--batch", "1000", "--seq", "1000000000"}, "more than a PiB"},
  };
  for (const BadCall& call : calls) {
    const ProgramResult result = run_program(with({"predict"}, call.words));
    EXPECT_EQ(result.status, 2) << call.message;
    EXPECT_TRUE(result.out.empty()) << call.message;
    EXPECT_NE(result.err.find(call.message), std::string::npos)
        << "wanted: " << call.message << "\ngot: " << result.err;
  }
}

TEST(Fit, RefusesContradictions) {
  const std::vector<BadCall> calls{
      {{"--model", "bert-large", "--vary", "batch", "--max", "2", "--step", "4"}, "is above --max"},
      {{"--model", "bert-large", "--vary", "seq", "--max", "1024"}, "512 positions"},
      {{"--model", "bert-large", "--vary", "world", "--max", "8"}, "--vary world needs --parallel"},
      {{"--model", "vit-base", "--vary", "seq", "--max", "8"}, "an image model's sequence"},
      {{"--model", "bert-large", "--vary", "batches"}, "the nearest is 'batch'"}};
  for (const BadCall& call : calls) {
    const ProgramResult result = run_program(with({"fit"}, call.words));
    EXPECT_EQ(result.status, 2) << call.message;
    EXPECT_NE(result.err.find(call.message), std::string::npos)
        << "wanted: " << call.message << "\ngot: " << result.err;
  }
}

TEST(Predict, AdvisesAroundWhatIsNotModelled) {
  // Adapters over ranks are not: that is no fault of a run on one.
  const json report = report_of({"predict", "--model", "bert-tiny", "--batch", "4", "--seq", "64",
                                 "--lora", "4", "--limit", "20MiB"},
                                1);
  EXPECT_EQ(report["verdict"], "out_of_memory");
}

TEST(Sweep, ReadsItsGridFromStdin) {
  const ProgramResult result =
      run_program({"sweep", "-"}, R"({"run": {"model": "bert-tiny"}, "grid": {"seq": [16, 32]}})");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 3) << result.out;
}

}  // namespace
}  // namespace peakcast::testing_support
