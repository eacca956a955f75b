#include "workloads/model_config.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "sim/core/embedded.hpp"
#include "workloads/model_names.hpp"

namespace peakcast {
namespace {

std::string message_of(const Expected<ModelConfig>& config) {
  return config ? std::string{"no error"} : to_string(config.error());
}

TEST(ModelConfig, EveryBuiltInConfigIsValid) {
  for (const EmbeddedFile& file : embedded_model_configs()) {
    const auto config = load_model_config(std::string{file.name});
    EXPECT_TRUE(config) << file.name << ": " << message_of(config);
  }
}

TEST(ModelConfig, BuiltInConfigsAreInNameOrder) {
  const auto files = embedded_model_configs();
  for (std::size_t i = 1; i < files.size(); ++i) {
    EXPECT_LT(files[i - 1].name, files[i].name);
  }
}

// The recordings' `params`: what PyTorch counted for the very models that were trained.
TEST(ModelConfig, CountsTheParametersThatPyTorchCounts) {
  const auto count = [](const std::string& model, const ConfigOverrides& overrides = {},
                        std::string_view task = "") {
    const auto config = load_model_config(model, overrides, task);
    return config ? parameter_count(*config) : -1;
  };
  EXPECT_EQ(count("bert-large"), 335174458);
  EXPECT_EQ(count("bert-base"), 109514298);
  EXPECT_EQ(count("bert-large", {}, "pretraining"), 336226108);
  EXPECT_EQ(count("bert-large", {{"num_hidden_layers", "2"}}, "classification"), 58027010);
  EXPECT_EQ(count("gpt2-long"), 136236288);
  EXPECT_EQ(count("gpt2-medium"), 354823168);
  EXPECT_EQ(count("llama-1b"), 1104218112);
  EXPECT_EQ(count("llama-7b"), 6738415616);
  EXPECT_EQ(count("mixtral-small", {{"num_hidden_layers", "2"}}), 248009728);
  EXPECT_EQ(count("qwen2-0.5b", {{"num_hidden_layers", "2"}}), 165960320);
  EXPECT_EQ(count("t5-large", {{"num_layers", "2"}, {"num_decoder_layers", "2"}}), 91632640);
  EXPECT_EQ(count("vit-large", {{"num_hidden_layers", "2"}}), 27209704);
}

// What the published checkpoints hold, by their model cards or their safetensors' index.
TEST(ModelConfig, BuiltInModelsHaveTheirPublishedSize) {
  const auto count = [](const std::string& model) {
    const auto config = load_model_config(model);
    return config ? parameter_count(*config) : -1;
  };
  EXPECT_EQ(count("qwen3-8b"), 8190735360);
  EXPECT_EQ(count("qwen3-0.6b"), 596049920);
  EXPECT_EQ(count("qwen3-30b-a3b"), 30532122624);
  EXPECT_EQ(count("gemma-3-1b"), 999885952);
  EXPECT_EQ(count("gemma-2-9b"), 9241705984);
  EXPECT_EQ(count("phi-4"), 14659507200);
  EXPECT_EQ(count("gpt-oss-20b"), 20914757184);
  EXPECT_EQ(count("gpt-oss-120b"), 116829156672);
  EXPECT_EQ(count("smollm3-3b"), 3075098624);
}

TEST(ModelConfig, TheNamedTypeIsAPrecision) {
  const auto config = [](const char* line) {
    return parse_model_config(std::string{R"({"model_type": "gpt2", "vocab_size": 100, "n_embd": 8,
        "n_layer": 1, "n_head": 2)"} +
                                  line + "}",
                              "c.json");
  };
  EXPECT_EQ(config("")->precision, std::nullopt);
  EXPECT_EQ(config(R"(, "torch_dtype": "bfloat16")")->precision, Precision::bf16);
  EXPECT_EQ(config(R"(, "dtype": "float16", "torch_dtype": "float32")")->precision,
            Precision::fp16);
  EXPECT_EQ(message_of(config(R"(, "dtype": "int8")")),
            "c.json: field 'dtype' is int8; float32, bfloat16 and float16 are supported");
}

TEST(ModelConfig, LayersWithWindowsFollowTheFamilysPatternOrTheirList) {
  const auto gemma = load_model_config("gemma-3-1b", {{"num_hidden_layers", "7"}});
  ASSERT_TRUE(gemma) << message_of(gemma);
  EXPECT_EQ(gemma->decoder.windowed,
            (std::vector<bool>{true, true, true, true, true, false, true}));
  const auto listed = load_model_config(
      "gemma-3-1b",
      {{"num_hidden_layers", "2"}, {"layer_types", R"(["full_attention", "sliding_attention"])"}});
  ASSERT_TRUE(listed) << message_of(listed);
  EXPECT_EQ(listed->decoder.windowed, (std::vector<bool>{false, true}));
  EXPECT_EQ(message_of(load_model_config("gemma-3-1b", {{"layer_types", R"(["full"])"}})),
            "gemma-3-1b: field 'layer_types' is not a list of a word for each of 26 layers");
  const auto smollm = load_model_config("smollm3-3b", {{"num_hidden_layers", "4"}});
  ASSERT_TRUE(smollm) << message_of(smollm);
  EXPECT_EQ(smollm->decoder.no_rotary, (std::vector<bool>{false, false, false, true}));
}

TEST(ModelConfig, MissingKeysTakeTheFamilysDefaults) {
  const auto config = parse_model_config(
      R"({"model_type": "llama", "vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 2,
          "num_attention_heads": 4, "intermediate_size": 128})",
      "config.json");
  ASSERT_TRUE(config) << message_of(config);
  EXPECT_EQ(config->key_value_heads, 4);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->max_positions, 2048);
  EXPECT_EQ(config->activation, Activation::silu);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_FALSE(config->use_cache);
  EXPECT_EQ(config->task, Task::causal_lm);
}

TEST(ModelConfig, OverridesSpeakTheFamilysNamesAndTheCommonOnes) {
  for (const char* key : {"n_layer", "num_hidden_layers"}) {
    const auto config = load_model_config("gpt2", {{key, "3"}, {"use_cache", "true"}});
    ASSERT_TRUE(config) << message_of(config);
    EXPECT_EQ(config->layers, 3);
    EXPECT_TRUE(config->use_cache);
  }
}

TEST(ModelConfig, LabelsComeFromId2label) {
  const auto config = load_model_config(
      "bert-base", {{"id2label", R"({"0": "a", "1": "b", "2": "c"})"}}, "classification");
  ASSERT_TRUE(config) << message_of(config);
  EXPECT_EQ(config->labels, 3);
}

struct BadConfig {
  const char* json;
  const char* message;
};

TEST(ModelConfig, OneErrorNamesTheField) {
  const BadConfig cases[] = {
      {"{", "c.json:1:2: not valid JSON"},
      {R"({"hidden_size": 3e745})", "c.json:1:17: a number that no double holds"},
      {"[1]", "c.json: a config is a JSON object"},
      {"{}", "c.json: field 'model_type' is missing"},
      {R"({"model_type": "lama"})",
       "c.json: field 'model_type': unknown architecture 'lama'; the nearest is 'llama' "
       "(supported: "
       "bert, deepseek_v3, distilbert, electra, gemma2, gemma3_text, gpt2, gpt_oss, granite, "
       "llama, "
       "mistral, mixtral, modernbert, olmo2, phi3, qwen2, qwen3, qwen3_moe, roberta, smollm3, t5, "
       "vit)"},
      {R"({"model_type": "bert", "vocab_size": 10})", "c.json: field 'hidden_size' is missing"},
      {R"({"model_type": "bert", "vocab_size": 10, "hidden_size": 65, "num_hidden_layers": 1,
           "num_attention_heads": 4, "intermediate_size": 8})",
       "c.json: field 'num_attention_heads' is 4, which does not divide hidden_size (65)"},
      {R"({"model_type": "gpt2", "vocab_size": 10, "n_embd": 0, "n_layer": 1, "n_head": 4})",
       "c.json: field 'n_embd' is 0; it must be in 1..1048576"},
      {R"({"model_type": "gpt2", "vocab_size": 99999999999999999999, "n_embd": 8, "n_layer": 1,
           "n_head": 4})",
       "c.json: field 'vocab_size' is 1e+20, not a whole number"},
      {R"({"model_type": "gpt2", "vocab_size": 18446744073709551615, "n_embd": 8, "n_layer": 1,
           "n_head": 4})",
       "c.json: field 'vocab_size' is 18446744073709551615; it must be in 1..16777216"},
      {R"({"model_type": "llama", "vocab_size": 10, "hidden_size": 64, "num_hidden_layers": 1,
           "num_attention_heads": 4, "num_key_value_heads": 3, "intermediate_size": 8})",
       "c.json: field 'num_key_value_heads' is 3, which does not divide num_attention_heads (4)"},
      {R"({"model_type": "bert", "vocab_size": 10, "hidden_size": 64, "num_hidden_layers": 1,
           "num_attention_heads": 4, "intermediate_size": 8, "hidden_act": "gleu"})",
       "c.json: field 'hidden_act': unknown activation 'gleu'; the nearest is 'gelu'"},
      {R"({"model_type": "bert", "vocab_size": 10, "hidden_size": 64, "num_hidden_layers": 1,
           "num_attention_heads": 4, "intermediate_size": 8, "hidden_dropout_prob": 1.5})",
       "c.json: field 'hidden_dropout_prob' is 1.5; a dropout probability is at least 0 and below "
       "1"},
      {R"({"model_type": "bert", "vocab_size": "many"})",
       "c.json: field 'vocab_size' is \"many\", not a whole number"},
  };
  for (const BadConfig& bad : cases) {
    EXPECT_EQ(message_of(parse_model_config(bad.json, "c.json")), bad.message);
  }
}

TEST(ModelConfig, UnknownWordsNameTheNearest) {
  EXPECT_EQ(message_of(load_model_config("bert-lage")),
            "unknown model 'bert-lage'; the nearest is 'bert-large', and there is no such file");
  EXPECT_EQ(message_of(load_model_config("bert-large", {{"num_hiden_layers", "2"}})),
            "--set: unknown field 'num_hiden_layers'; the nearest is 'num_hidden_layers'");
  EXPECT_EQ(message_of(load_model_config("bert-large", {}, "mln")),
            "bert-large: unknown task 'mln'; the nearest is 'mlm'");
  EXPECT_EQ(message_of(load_model_config("no/such/config.json")),
            "no/such/config.json: no such file");
  EXPECT_EQ(message_of(load_model_config("phi3")),
            "unknown model 'phi3', and there is no such file; phi models that are built in: "
            "phi-3.5-mini, phi-4, phi-4-mini; any other by its config.json");
  EXPECT_EQ(
      message_of(load_model_config("granite-3b")),
      "unknown model 'granite-3b', and there is no such file; none of granite is built in, but "
      "it is modelled: give its config.json");
  EXPECT_NE(message_of(load_model_config("state-spaces/mamba-2.8b"))
                .find("not built in, and by a config.json these are modelled: "),
            std::string::npos);
}

TEST(ModelConfig, NamesOfPeopleAndOfTheHubMeanBuiltIns) {
  for (const auto& [word, builtin] : std::vector<std::pair<std::string, std::string>>{
           {"BERT-large", "bert-large"},
           {"bert_large", "bert-large"},
           {"bert-large-uncased", "bert-large"},
           {"meta-llama/Llama-3.1-8B", "llama-3.1-8b"},
           {"Meta-Llama-3-8B-Instruct", "llama-3-8b"},
           {"mistralai/Mistral-7B-v0.1", "mistral-7b"}}) {
    EXPECT_EQ(builtin_model(word), builtin) << word;
    EXPECT_TRUE(load_model_config(word).has_value()) << word;
  }
  // Another vocabulary, another window: other models.
  EXPECT_EQ(builtin_model("bert-large-cased"), "");
  EXPECT_EQ(builtin_model("mistralai/Mistral-7B-v0.2"), "");
}

TEST(ModelConfig, EveryHubNameMeansABuiltInAndThoseThatConfigsNameAreAmongThem) {
  for (const HubName& hub : hub_names()) {
    const auto builtins = embedded_model_configs();
    EXPECT_TRUE(std::any_of(builtins.begin(), builtins.end(), [&](const EmbeddedFile& file) {
      return file.name == hub.builtin;
    })) << hub.id;
  }
  for (const EmbeddedFile& file : embedded_model_configs()) {
    const auto config = nlohmann::json::parse(file.text);
    const std::string source = config.value("_name_or_path", "");
    if (!source.empty() && source.find("(text_config)") == std::string::npos) {
      EXPECT_EQ(builtin_model(source.substr(0, source.find(' '))), file.name);
    }
  }
}

}  // namespace
}  // namespace peakcast
