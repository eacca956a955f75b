#include "workloads/model_config.hpp"

#include <gtest/gtest.h>

#include "sim/core/embedded.hpp"

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
      {"[1]", "c.json: a config is a JSON object"},
      {"{}", "c.json: field 'model_type' is missing"},
      {R"({"model_type": "lama"})",
       "c.json: field 'model_type': unknown architecture 'lama'; the nearest is 'llama' "
       "(supported: "
       "bert, gpt2, llama, mistral, mixtral, qwen2, t5, vit)"},
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
}

}  // namespace
}  // namespace peakcast
