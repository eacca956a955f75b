#include "workloads/model_names.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include <fmt/format.h>

#include "sim/core/embedded.hpp"
#include "sim/core/nearest.hpp"
#include "workloads/family.hpp"

namespace peakcast {
namespace {

// What a repository's config.json says and its built-in does not (positions of rotary tables, token
// ids, generation) allocates nothing. Repositories whose vocabulary or window differs
// (bert-large-cased, Mistral-7B-v0.2) are no names of a built-in model; nor are those of which a
// built-in is a part (Gemma 3 with its vision tower). Source: the repositories' config.json.
constexpr std::array kHubNames{
    HubName{"google-bert/bert-base-uncased", "bert-base"},
    HubName{"google-bert/bert-large-uncased", "bert-large"},
    HubName{"google-bert/bert-large-uncased-whole-word-masking", "bert-large"},
    HubName{"deepseek-ai/DeepSeek-V3", "deepseek-v3"},
    HubName{"distilbert/distilbert-base-uncased", "distilbert-base"},
    HubName{"google/electra-base-discriminator", "electra-base"},
    HubName{"google/electra-large-discriminator", "electra-large"},
    HubName{"google/electra-small-discriminator", "electra-small"},
    HubName{"google/flan-t5-xl", "flan-t5-xl"},
    HubName{"google/gemma-2-27b", "gemma-2-27b"},
    HubName{"google/gemma-2-27b-it", "gemma-2-27b"},
    HubName{"google/gemma-2-2b", "gemma-2-2b"},
    HubName{"google/gemma-2-2b-it", "gemma-2-2b"},
    HubName{"google/gemma-2-9b", "gemma-2-9b"},
    HubName{"google/gemma-2-9b-it", "gemma-2-9b"},
    HubName{"google/gemma-3-1b-it", "gemma-3-1b"},
    HubName{"google/gemma-3-1b-pt", "gemma-3-1b"},
    HubName{"google/gemma-3-270m", "gemma-3-270m"},
    HubName{"google/gemma-3-270m-it", "gemma-3-270m"},
    HubName{"openai/gpt-oss-120b", "gpt-oss-120b"},
    HubName{"openai/gpt-oss-20b", "gpt-oss-20b"},
    HubName{"openai-community/gpt2", "gpt2"},
    HubName{"openai-community/gpt2-large", "gpt2-large"},
    HubName{"openai-community/gpt2-medium", "gpt2-medium"},
    HubName{"openai-community/gpt2-xl", "gpt2-xl"},
    HubName{"meta-llama/Llama-2-13b-chat-hf", "llama-2-13b"},
    HubName{"meta-llama/Llama-2-13b-hf", "llama-2-13b"},
    HubName{"meta-llama/Llama-2-70b-chat-hf", "llama-2-70b"},
    HubName{"meta-llama/Llama-2-70b-hf", "llama-2-70b"},
    HubName{"meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"},
    HubName{"meta-llama/Llama-2-7b-hf", "llama-2-7b"},
    HubName{"meta-llama/Llama-3.1-405B", "llama-3.1-405b"},
    HubName{"meta-llama/Llama-3.1-405B-Instruct", "llama-3.1-405b"},
    HubName{"meta-llama/Llama-3.1-70B", "llama-3.1-70b"},
    HubName{"meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b"},
    HubName{"meta-llama/Llama-3.1-8B", "llama-3.1-8b"},
    HubName{"meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"},
    HubName{"meta-llama/Llama-3.2-1B", "llama-3.2-1b"},
    HubName{"meta-llama/Llama-3.2-1B-Instruct", "llama-3.2-1b"},
    HubName{"meta-llama/Llama-3.2-3B", "llama-3.2-3b"},
    HubName{"meta-llama/Llama-3.2-3B-Instruct", "llama-3.2-3b"},
    HubName{"meta-llama/Meta-Llama-3-70B", "llama-3-70b"},
    HubName{"meta-llama/Meta-Llama-3-70B-Instruct", "llama-3-70b"},
    HubName{"meta-llama/Meta-Llama-3-8B", "llama-3-8b"},
    HubName{"meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b"},
    HubName{"meta-llama/Meta-Llama-3.1-405B", "llama-3.1-405b"},
    HubName{"meta-llama/Meta-Llama-3.1-70B", "llama-3.1-70b"},
    HubName{"meta-llama/Meta-Llama-3.1-70B-Instruct", "llama-3.1-70b"},
    HubName{"meta-llama/Meta-Llama-3.1-8B", "llama-3.1-8b"},
    HubName{"meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"},
    HubName{"huggyllama/llama-7b", "llama-7b"},
    HubName{"mistralai/Mistral-7B-Instruct-v0.1", "mistral-7b"},
    HubName{"mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"},
    HubName{"mistralai/Mistral-7B-v0.1", "mistral-7b"},
    HubName{"mistralai/Mistral-7B-v0.3", "mistral-7b-v0.3"},
    HubName{"mistralai/Mixtral-8x22B-v0.1", "mixtral-8x22b"},
    HubName{"mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"},
    HubName{"mistralai/Mixtral-8x7B-v0.1", "mixtral-8x7b"},
    HubName{"answerdotai/ModernBERT-base", "modernbert-base"},
    HubName{"answerdotai/ModernBERT-large", "modernbert-large"},
    HubName{"allenai/OLMo-2-0325-32B", "olmo-2-32b"},
    HubName{"allenai/OLMo-2-0425-1B", "olmo-2-1b"},
    HubName{"allenai/OLMo-2-1124-13B", "olmo-2-13b"},
    HubName{"allenai/OLMo-2-1124-7B", "olmo-2-7b"},
    HubName{"microsoft/Phi-3.5-mini-instruct", "phi-3.5-mini"},
    HubName{"microsoft/Phi-4-mini-instruct", "phi-4-mini"},
    HubName{"microsoft/phi-4", "phi-4"},
    HubName{"Qwen/Qwen2-0.5B", "qwen2-0.5b"},
    HubName{"Qwen/Qwen2-0.5B-Instruct", "qwen2-0.5b"},
    HubName{"Qwen/Qwen2-1.5B", "qwen2-1.5b"},
    HubName{"Qwen/Qwen2-1.5B-Instruct", "qwen2-1.5b"},
    HubName{"Qwen/Qwen2-72B", "qwen2-72b"},
    HubName{"Qwen/Qwen2-72B-Instruct", "qwen2-72b"},
    HubName{"Qwen/Qwen2-7B", "qwen2-7b"},
    HubName{"Qwen/Qwen2-7B-Instruct", "qwen2-7b"},
    HubName{"Qwen/Qwen2.5-14B", "qwen2.5-14b"},
    HubName{"Qwen/Qwen2.5-14B-Instruct", "qwen2.5-14b"},
    HubName{"Qwen/Qwen2.5-32B", "qwen2.5-32b"},
    HubName{"Qwen/Qwen2.5-32B-Instruct", "qwen2.5-32b"},
    HubName{"Qwen/Qwen2.5-3B", "qwen2.5-3b"},
    HubName{"Qwen/Qwen2.5-3B-Instruct", "qwen2.5-3b"},
    HubName{"Qwen/Qwen2.5-7B", "qwen2.5-7b"},
    HubName{"Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"},
    HubName{"Qwen/Qwen3-0.6B", "qwen3-0.6b"},
    HubName{"Qwen/Qwen3-1.7B", "qwen3-1.7b"},
    HubName{"Qwen/Qwen3-14B", "qwen3-14b"},
    HubName{"Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"},
    HubName{"Qwen/Qwen3-32B", "qwen3-32b"},
    HubName{"Qwen/Qwen3-4B", "qwen3-4b"},
    HubName{"Qwen/Qwen3-8B", "qwen3-8b"},
    HubName{"FacebookAI/roberta-base", "roberta-base"},
    HubName{"FacebookAI/roberta-large", "roberta-large"},
    HubName{"HuggingFaceTB/SmolLM3-3B", "smollm3-3b"},
    HubName{"google-t5/t5-3b", "t5-3b"},
    HubName{"google-t5/t5-base", "t5-base"},
    HubName{"google-t5/t5-large", "t5-large"},
    HubName{"google-t5/t5-small", "t5-small"},
    HubName{"TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b"},
    HubName{"google/vit-base-patch16-224", "vit-base"},
    HubName{"google/vit-large-patch16-224", "vit-large"},
};

/// The letters that `word` begins with, behind any "owner/", in lower case: "phi" of "phi3".
std::string stem_of(std::string_view word) {
  word.remove_prefix(word.rfind('/') + 1);  // npos + 1 is 0
  const std::string plain = plain_word(word);
  return plain.substr(0, std::min(plain.find_first_of("0123456789-."), plain.size()));
}

}  // namespace

std::span<const HubName> hub_names() { return kHubNames; }

std::string_view builtin_model(std::string_view word) {
  const std::string plain = plain_word(word);
  for (const EmbeddedFile& file : embedded_model_configs()) {
    if (file.name == plain) {
      return file.name;
    }
  }
  for (const HubName& hub : kHubNames) {
    const std::string id = plain_word(hub.id);
    if (plain == id || plain == id.substr(id.find('/') + 1)) {
      return hub.builtin;
    }
  }
  return {};
}

std::string unknown_model(std::string_view word) {
  std::vector<std::string_view> names;
  std::vector<std::string_view> related;
  const std::string stem = stem_of(word);
  for (const EmbeddedFile& file : embedded_model_configs()) {
    names.push_back(file.name);
    if (!stem.empty() && stem_of(file.name) == stem) {
      related.push_back(file.name);
    }
  }
  constexpr std::string_view kNoFile = "and there is no such file";
  if (!near(word, names).empty()) {
    return fmt::format("{}, {}", unknown_word("model", word, names), kNoFile);
  }
  const std::string unknown = fmt::format("unknown model '{}', {}", word.substr(0, 64), kNoFile);
  if (!related.empty()) {
    return fmt::format("{}; {} models that are built in: {}; any other by its config.json", unknown,
                       stem, fmt::join(related, ", "));
  }
  std::vector<std::string_view> modelled;
  for (const Family* family : families()) {
    modelled.push_back(family->name);
    if (!stem.empty() && stem_of(family->name) == stem) {
      return fmt::format("{}; none of {} is built in, but it is modelled: give its config.json",
                         unknown, family->name);
    }
  }
  return fmt::format(
      "{}: not built in, and by a config.json these are modelled: {}; 'peakcast capture' runs any "
      "program",
      unknown, fmt::join(modelled, ", "));
}

}  // namespace peakcast
