#include "sim/device/gpu_description.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include <nlohmann/json.hpp>

#include "sim/core/embedded.hpp"
#include "sim/core/json_nesting.hpp"
#include "sim/core/nearest.hpp"
#include "sim/core/text_file.hpp"

namespace peakcast {
namespace {

using Json = nlohmann::json;

constexpr std::array<std::pair<std::string_view, OutsideWhen>, 8> kWhen{{
    {"always", OutsideWhen::always},
    {"cudnn_attention", OutsideWhen::cudnn_attention},
    {"ddp", OutsideWhen::ddp},
    {"nccl", OutsideWhen::nccl},
    {"nccl_one_rank", OutsideWhen::nccl_one_rank},
    {"sharding", OutsideWhen::sharding},
    {"zero_1_2", OutsideWhen::zero_1_2},
    {"zero_3", OutsideWhen::zero_3},
}};

/// The card whose figures stand in where another has none.
constexpr std::string_view kReferenceCard = "h100-80g";

/// Threads that one multiprocessor holds. Source: CUDA C++ programming guide, "Compute
/// Capabilities", technical specifications per compute capability.
std::int64_t resident_threads(int major, int minor) {
  if (major == 7 && minor == 5) {
    return 1024;
  }
  const bool half_size = (major == 8 && minor >= 6) || major == 12;
  return half_size ? 1536 : 2048;
}

/// Keeps the first fault; a missing or wrong field gives a harmless value.
class Fields {
 public:
  Fields(const Json& object, std::string file) : object_{object}, file_{std::move(file)} {}
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }
  void fail(std::string message) {
    if (!error_) {
      error_ = invalid_input(std::move(message), InputPosition{.file = file_});
    }
  }
  [[nodiscard]] bool has(const char* key) const { return object_.contains(key); }

  std::int64_t whole(const char* key, std::int64_t minimum, std::int64_t maximum) {
    const auto at = object_.find(key);
    if (at == object_.end()) {
      fail("field '" + std::string{key} + "' is missing");
      return minimum;
    }
    if (!at->is_number_integer() ||
        (at->is_number_unsigned() &&
         at->get<std::uint64_t>() > static_cast<std::uint64_t>(maximum)) ||
        at->get<std::int64_t>() < minimum || at->get<std::int64_t>() > maximum) {
      fail("field '" + std::string{key} + "' is not a whole number in " + std::to_string(minimum) +
           ".." + std::to_string(maximum));
      return minimum;
    }
    return at->get<std::int64_t>();
  }
  std::string text(const char* key, const std::optional<std::string>& fallback) {
    const auto at = object_.find(key);
    if (at == object_.end() || at->is_null()) {
      if (!fallback) {
        fail("field '" + std::string{key} + "' is missing");
      }
      return fallback.value_or("");
    }
    if (!at->is_string()) {
      fail("field '" + std::string{key} + "' is not a string");
      return "";
    }
    return at->get<std::string>();
  }
  bool boolean(const char* key, bool fallback) {
    const auto at = object_.find(key);
    if (at == object_.end()) {
      return fallback;
    }
    if (!at->is_boolean()) {
      fail("field '" + std::string{key} + "' is not true or false");
      return fallback;
    }
    return at->get<bool>();
  }

 private:
  const Json& object_;
  std::string file_;
  std::optional<Error> error_{};
};

constexpr std::int64_t kMaxMemory = std::int64_t{1} << 46;  // 64 TiB: no card is near

Expected<OutsideItem> parse_item(const Json& row, const std::string& file) {
  if (!row.is_object()) {
    return invalid_input("field 'outside' is not a list of objects", InputPosition{.file = file});
  }
  Fields fields{row, file};
  OutsideItem item;
  item.item = fields.text("item", std::nullopt);
  item.size = Bytes{fields.whole("bytes", 0, kMaxMemory)};
  item.measured = fields.boolean("measured", true);
  item.source = fields.text("source", "");
  const std::string when = fields.text("when", "always");
  std::vector<std::string_view> words;
  bool known = false;
  for (const auto& [word, value] : kWhen) {
    words.push_back(word);
    if (word == when) {
      item.when = value;
      known = true;
    }
  }
  if (!known) {
    fields.fail("field 'when': " + unknown_word("value", when, words));
  }
  if (fields.error()) {
    return *fields.error();
  }
  return item;
}

/// The reference card's rows, as another card borrows them.
std::vector<OutsideItem> borrowed_rows() {
  auto reference = load_gpu_description(std::string{kReferenceCard});
  check(reference.has_value(), "the reference card's description is valid");
  for (OutsideItem& item : reference->outside) {
    item.measured = false;
    item.source = "not measured on this card: " + std::string{kReferenceCard} + "'s figure";
  }
  return std::move(reference->outside);
}

}  // namespace

std::string_view to_string(OutsideWhen when) {
  for (const auto& [word, value] : kWhen) {
    if (value == when) {
      return word;
    }
  }
  return "?";
}

Expected<GpuDescription> parse_gpu_description(std::string_view json, const std::string& file) {
  if (const auto deep = too_deep_json(json)) {
    return invalid_input("nested too deep", position_in(json, *deep, file));
  }
  Json object;
  try {
    object = Json::parse(json.begin(), json.end());
  } catch (const Json::parse_error& error) {
    return invalid_input("not valid JSON",
                         position_in(json, error.byte == 0 ? 0 : error.byte - 1, file));
  }
  if (!object.is_object()) {
    return invalid_input("a card's description is a JSON object", InputPosition{.file = file});
  }
  Fields fields{object, file};
  GpuDescription gpu;
  gpu.spec.name = fields.text("card", fields.text("name", ""));
  gpu.name = fields.text("name", gpu.spec.name);
  gpu.spec.total = Bytes{fields.whole("total_bytes", 1, kMaxMemory)};
  gpu.total_source = fields.text("total_source", "");
  constexpr std::int64_t kPage = std::int64_t{2} << 20;
  gpu.spec.granularity = Bytes{fields.has("granularity_bytes")
                                   ? fields.whole("granularity_bytes", 1, std::int64_t{1} << 30)
                                   : kPage};
  gpu.spec.compute_major = static_cast<int>(fields.whole("compute_major", 1, 99));
  gpu.spec.compute_minor = static_cast<int>(fields.whole("compute_minor", 0, 99));
  gpu.multiprocessors = fields.whole("multiprocessors", 1, 65536);
  gpu.threads_per_multiprocessor =
      fields.has("threads_per_multiprocessor")
          ? fields.whole("threads_per_multiprocessor", 32, 65536)
          : resident_threads(gpu.spec.compute_major, gpu.spec.compute_minor);
  gpu.costs_like = fields.text("costs_like", gpu.name);
  if (object.contains("outside")) {
    if (!object["outside"].is_array()) {
      fields.fail("field 'outside' is not a list");
    } else {
      for (const Json& row : object["outside"]) {
        auto item = parse_item(row, file);
        if (!item) {
          return item.error();
        }
        gpu.outside.push_back(*std::move(item));
      }
    }
  } else {
    gpu.outside = borrowed_rows();
    if (fields.has("context_bytes")) {
      for (OutsideItem& item : gpu.outside) {
        if (item.item == "context") {
          item.size = Bytes{fields.whole("context_bytes", 0, kMaxMemory)};
          item.measured = true;
          item.source = file;
        }
      }
    }
  }
  if (fields.error()) {
    return *fields.error();
  }
  return gpu;
}

Expected<GpuDescription> load_gpu_description(const std::string& gpu) {
  std::vector<std::string_view> names;
  for (const EmbeddedFile& entry : embedded_gpus()) {
    if (entry.name == gpu) {
      return parse_gpu_description(entry.text, gpu);
    }
    names.push_back(entry.name);
  }
  std::error_code error;
  const bool looks_like_a_path = gpu.find('/') != std::string::npos || gpu.ends_with(".json");
  if (!looks_like_a_path && !std::filesystem::exists(gpu, error)) {
    return invalid_input(unknown_word("GPU", gpu, names) + ", and there is no such file");
  }
  const auto text = read_text_file(gpu);
  if (!text) {
    return text.error();
  }
  return parse_gpu_description(*text, gpu);
}

std::vector<OutsideItem> outside_items(const GpuDescription& gpu, const OutsideUse& use) {
  std::vector<OutsideItem> items;
  std::copy_if(gpu.outside.begin(), gpu.outside.end(), std::back_inserter(items),
               [&](const OutsideItem& item) {
                 switch (item.when) {
                   case OutsideWhen::always:
                     return true;
                   case OutsideWhen::cudnn_attention:
                     return use.cudnn_attention;
                   case OutsideWhen::sharding:
                     return use.parallel == item.when;
                   case OutsideWhen::ddp:
                   case OutsideWhen::zero_1_2:
                   case OutsideWhen::zero_3:
                     return use.parallel == item.when && use.nccl_ranks > 1;
                   case OutsideWhen::nccl_one_rank:
                     return use.nccl_ranks == 1;
                   case OutsideWhen::nccl:
                     return use.nccl_ranks > 1;
                 }
                 return false;
               });
  return items;
}

}  // namespace peakcast
