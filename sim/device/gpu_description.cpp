#include "sim/device/gpu_description.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <iterator>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

#include <nlohmann/json.hpp>

#include "sim/core/check.hpp"
#include "sim/core/embedded.hpp"
#include "sim/core/json_nesting.hpp"
#include "sim/core/nearest.hpp"
#include "sim/core/text_file.hpp"
#include "sim/device/gpu_fields.hpp"

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

/// A card's name without maker, spaces and dashes, in lower case, with "80gb" as "80g": what
/// "RTX 4090", "nvidia-h100-80gb" and "a100_40G" share with the names of this program.
std::string card_letters(std::string_view name) {
  std::string letters = plain_word(name);
  for (const std::string_view maker : {"nvidia-", "geforce-", "tesla-"}) {
    if (letters.starts_with(maker)) {
      letters.erase(0, maker.size());
    }
  }
  std::erase(letters, '-');
  if (letters.ends_with("gb") || letters.ends_with("gib")) {
    letters.erase(letters.rfind('g') + 1);
  }
  return letters;
}

/// Threads that one multiprocessor holds. Source: CUDA C++ programming guide, "Compute
/// Capabilities", technical specifications per compute capability.
std::int64_t resident_threads(int major, int minor) {
  if (major == 7 && minor == 5) {
    return 1024;
  }
  const bool half_size = (major == 8 && minor >= 6) || major == 12;
  return half_size ? 1536 : 2048;
}

constexpr std::int64_t kMaxMemory = std::int64_t{1} << 46;  // 64 TiB: no card is near
constexpr std::int64_t kPage = std::int64_t{2} << 20;

/// Reads one object. Keeps the first fault; a missing or wrong field gives a harmless value.
class Fields {
 public:
  /// `prefix` names the object in messages: "rates." or "".
  Fields(const Json& object, std::string file, std::string prefix = "")
      : object_{object}, file_{std::move(file)}, prefix_{std::move(prefix)} {}
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }
  void fail(std::string message) {
    if (!error_) {
      error_ = invalid_input(std::move(message), InputPosition{.file = file_});
    }
  }
  void take_error(const Fields& other) {
    if (!error_) {
      error_ = other.error_;
    }
  }
  /// Null is as good as absent.
  [[nodiscard]] bool has(const char* key) const {
    const auto at = object_.find(key);
    return at != object_.end() && !at->is_null();
  }
  /// Any key that is not in `known` is a fault.
  void only(std::span<const std::string_view> known) {
    for (const auto& [key, value] : object_.items()) {
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        fail(unknown_word(
            prefix_.empty() ? "field" : "field of '" + prefix_.substr(0, prefix_.size() - 1) + "'",
            key, known));
      }
    }
  }

  std::int64_t whole(const char* key, std::int64_t minimum, std::int64_t maximum) {
    if (!object_.contains(key)) {
      fail(named(key) + " is missing");
      return minimum;
    }
    return whole(object_.at(key), named(key), minimum, maximum);
  }
  std::int64_t whole(const Json& value, const std::string& name, std::int64_t minimum,
                     std::int64_t maximum) {
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() &&
         value.get<std::uint64_t>() > static_cast<std::uint64_t>(maximum)) ||
        value.get<std::int64_t>() < minimum || value.get<std::int64_t>() > maximum) {
      fail(name + " is not a whole number in " + std::to_string(minimum) + ".." +
           std::to_string(maximum));
      return minimum;
    }
    return value.get<std::int64_t>();
  }
  std::string text(const char* key, const std::optional<std::string>& fallback) {
    if (!has(key)) {
      if (!fallback) {
        fail(named(key) + " is missing");
      }
      return fallback.value_or("");
    }
    const Json& value = object_.at(key);
    if (!value.is_string()) {
      fail(named(key) + " is not a string");
      return "";
    }
    return value.get<std::string>();
  }
  bool boolean(const char* key, bool fallback) {
    if (!has(key)) {
      return fallback;
    }
    const Json& value = object_.at(key);
    if (!value.is_boolean()) {
      fail(named(key) + " is not true or false");
      return fallback;
    }
    return value.get<bool>();
  }
  /// [{"size_bytes", "cost_ns"}, ...], ascending.
  std::vector<CostPoint> costs(const char* key) {
    constexpr std::size_t kMostPoints = 1000;
    const Json& rows = object_.at(key);
    const std::string wrong =
        named(key) + " is not a list of {\"size_bytes\", \"cost_ns\"}, ascending by size";
    if (!rows.is_array() || rows.empty() || rows.size() > kMostPoints) {
      fail(wrong);
      return {};
    }
    std::vector<CostPoint> points;
    for (const Json& row : rows) {
      if (!row.is_object() || row.size() != 2 || !row.contains("size_bytes") ||
          !row.contains("cost_ns")) {
        fail(wrong);
        return {};
      }
      const Bytes size{whole(row["size_bytes"], named(key) + ": size_bytes", 1, kMaxMemory)};
      const SimDuration cost{whole(row["cost_ns"], named(key) + ": cost_ns", 0, kMostCardTime)};
      if (!points.empty() && size <= points.back().size) {
        fail(wrong);
        return {};
      }
      points.push_back({size, cost});
    }
    return points;
  }
  [[nodiscard]] const Json& json() const { return object_; }
  [[nodiscard]] const std::string& file() const { return file_; }

 private:
  [[nodiscard]] std::string named(const std::string& key) const {
    return "field '" + prefix_ + key + "'";
  }
  const Json& object_;
  std::string file_;
  std::string prefix_;
  std::optional<Error> error_{};
};

OutsideItem parse_item(Fields& fields) {
  constexpr std::array<std::string_view, 5> kKeys{"item", "when", "bytes", "measured", "source"};
  fields.only(kKeys);
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
  return item;
}

std::string borrowed_from(const GpuDescription& lender) {
  return "not measured on this card: " + lender.name + "'s figure";
}

std::vector<OutsideItem> borrowed_rows(const GpuDescription& lender) {
  std::vector<OutsideItem> rows = lender.outside;
  for (OutsideItem& row : rows) {
    row.measured = false;
    row.source = borrowed_from(lender);
  }
  return rows;
}

std::vector<OutsideItem> own_rows(Fields& fields) {
  constexpr std::size_t kMostRows = 1000;
  std::vector<OutsideItem> items;
  const Json& rows = fields.json().at("outside");
  if (!rows.is_array() || rows.size() > kMostRows) {
    fields.fail("field 'outside' is not a list");
    return items;
  }
  for (const Json& row : rows) {
    if (!row.is_object()) {
      fields.fail("field 'outside' is not a list of objects");
      return items;
    }
    Fields of_row{row, fields.file(), "outside."};
    items.push_back(parse_item(of_row));
    fields.take_error(of_row);
  }
  return items;
}

void parse_outside(Fields& fields, GpuDescription& gpu, const GpuDescription* lender) {
  const bool own = fields.has("outside");
  if (own) {
    gpu.outside = own_rows(fields);
  } else if (lender != nullptr) {
    gpu.outside = borrowed_rows(*lender);
  }
  if (!fields.has("context_bytes")) {
    return;
  }
  const auto context = std::find_if(gpu.outside.begin(), gpu.outside.end(),
                                    [](const OutsideItem& row) { return row.item == "context"; });
  if (context != gpu.outside.end()) {
    if (own) {
      fields.fail("field 'context_bytes': 'outside' has a row for the context too");
    }
    gpu.outside.erase(context);
  }
  gpu.outside.insert(gpu.outside.begin(),
                     OutsideItem{.item = "context",
                                 .when = OutsideWhen::always,
                                 .size = Bytes{fields.whole("context_bytes", 0, kMaxMemory)},
                                 .measured = true,
                                 .source = fields.text("context_source", fields.file())});
}

/// One of the two groups of figures, "rates" or "driver_costs": its keys, and which of them the
/// file leaves to the lender.
class Group {
 public:
  Group(Fields& card, const char* key, const GpuDescription* lender)
      : card_{card},
        lender_{lender},
        object_(card.has(key) ? card.json().at(key) : Json::object()),
        fields_{object_, card.file(), std::string{key} + "."} {
    if (!object_.is_object()) {
      card.fail(std::string{"field '"} + key + "' is not an object");
      object_ = Json::object();
    }
  }
  [[nodiscard]] Fields& fields() { return fields_; }
  /// Whether the file has `key` itself. The reference card has no lender: it must.
  bool own(const char* key) {
    known_.emplace_back(key);
    if (fields_.has(key) || lender_ == nullptr) {
      return true;
    }
    borrowed_ += (borrowed_.empty() ? "" : ", ") + std::string{key};
    ++borrowed_count_;
    return false;
  }
  /// Reads where the figures come from. `also`: keys of what was measured and decides nothing.
  FigureSource finish(std::initializer_list<std::string_view> also) {
    const bool all_borrowed = borrowed_count_ == known_.size();
    known_.insert(known_.end(), {"source", "measured"});
    known_.insert(known_.end(), also);
    fields_.only(known_);
    FigureSource source{.measured = fields_.boolean("measured", borrowed_.empty()),
                        .text = fields_.text("source", all_borrowed ? "" : card_.file())};
    if (all_borrowed) {
      source.text = borrowed_from(*lender_);
    } else if (!borrowed_.empty()) {
      source.text += "; " + borrowed_ + ": " + borrowed_from(*lender_);
    }
    card_.take_error(fields_);
    return source;
  }

 private:
  Fields& card_;
  const GpuDescription* lender_;
  Json object_;
  Fields fields_;
  std::vector<std::string_view> known_{};
  std::string borrowed_{};
  std::size_t borrowed_count_{};
};

void parse_rates(Fields& card, GpuDescription& gpu, const GpuDescription* lender) {
  Group group{card, "rates", lender};
  for (const auto& field : kRateFields) {
    gpu.rates.*field.member = group.own(field.key)
                                  ? group.fields().whole(field.key, field.least, field.most)
                                  : lender->rates.*field.member;
  }
  for (const auto& field : kRateTimes) {
    gpu.rates.*field.member = group.own(field.key)
                                  ? SimDuration{group.fields().whole(field.key, 0, kMostCardTime)}
                                  : lender->rates.*field.member;
  }
  gpu.rates_source = group.finish({});
}

void parse_driver_costs(Fields& card, GpuDescription& gpu, const GpuDescription* lender) {
  Group group{card, "driver_costs", lender};
  for (const auto& field : kDriverLists) {
    gpu.driver_costs.*field.member =
        group.own(field.key) ? group.fields().costs(field.key) : lender->driver_costs.*field.member;
  }
  for (const auto& field : kDriverTimes) {
    gpu.driver_costs.*field.member =
        group.own(field.key) ? SimDuration{group.fields().whole(field.key, 0, kMostCardTime)}
                             : lender->driver_costs.*field.member;
  }
  gpu.driver_source = group.finish({"event_record_ns", "event_query_ns", "kernel_turnaround_ns"});
}

void parse_total(Fields& fields, GpuDescription& gpu) {
  gpu.spec.total = Bytes{fields.whole("total_bytes", 1, kMaxMemory)};
  gpu.total_source = fields.text("total_source", "");
  gpu.total_least = gpu.spec.total;
  gpu.total_most = gpu.spec.total;
  if (fields.has("total_range_bytes")) {
    const Json& range = fields.json().at("total_range_bytes");
    if (!range.is_array() || range.size() != 2) {
      fields.fail("field 'total_range_bytes' is not [least, most]");
      return;
    }
    const std::string name{"field 'total_range_bytes'"};
    gpu.total_least = Bytes{fields.whole(range[0], name, 1, gpu.spec.total.count())};
    gpu.total_most = Bytes{fields.whole(range[1], name, gpu.spec.total.count(), kMaxMemory)};
  }
}

/// What stands for the fields of a card's file that are not there.
const GpuDescription* lender_of(Fields& fields, const GpuDescription& reference,
                                std::optional<GpuDescription>& other) {
  const std::string name = fields.text("costs_like", reference.name);
  if (name == reference.name) {
    return &reference;
  }
  std::vector<std::string_view> names;
  for (const EmbeddedFile& entry : embedded_gpus()) {
    names.push_back(entry.name);
    if (entry.name == name) {
      other = parse_gpu_description(entry.text, name).value();
      return &*other;
    }
  }
  fields.fail("field 'costs_like': " + unknown_word("card", name, names));
  return &reference;
}

/// A card's object. `reference` is null while the reference card itself is read, which borrows
/// nothing.
Expected<GpuDescription> parse_card(const Json& object, const std::string& file,
                                    const GpuDescription* reference) {
  constexpr std::array<std::string_view, 24> kKeys{"schema_version",
                                                   "name",
                                                   "gpu",
                                                   "card",
                                                   "measured",
                                                   "total_bytes",
                                                   "total_source",
                                                   "total_range_bytes",
                                                   "granularity_bytes",
                                                   "compute_major",
                                                   "compute_minor",
                                                   "multiprocessors",
                                                   "threads_per_multiprocessor",
                                                   "l2_cache_bytes",
                                                   "shared_page_limit_bytes",
                                                   "unusable_bytes",
                                                   "context_bytes",
                                                   "costs_like",
                                                   "driver_costs",
                                                   "rates",
                                                   "outside",
                                                   "context_source",
                                                   "page_use",
                                                   "context_creation_ns"};
  Fields fields{object, file};
  std::optional<GpuDescription> other;
  const GpuDescription* const lender =
      reference != nullptr ? lender_of(fields, *reference, other) : nullptr;
  GpuDescription gpu;
  gpu.spec.name = fields.text("card", fields.text("name", fields.text("gpu", "")));
  gpu.name = fields.text("name", fields.text("gpu", gpu.spec.name));
  parse_total(fields, gpu);
  gpu.spec.compute_major = static_cast<int>(fields.whole("compute_major", 1, 99));
  gpu.spec.compute_minor = static_cast<int>(fields.whole("compute_minor", 0, 99));
  gpu.multiprocessors = fields.whole("multiprocessors", 1, 65536);
  gpu.threads_per_multiprocessor =
      fields.has("threads_per_multiprocessor")
          ? fields.whole("threads_per_multiprocessor", 32, 65536)
          : resident_threads(gpu.spec.compute_major, gpu.spec.compute_minor);
  const auto bytes = [&](const char* key, std::int64_t least, std::int64_t most, Bytes borrowed) {
    return fields.has(key) || lender == nullptr ? Bytes{fields.whole(key, least, most)} : borrowed;
  };
  const GpuDescription none;
  const GpuDescription& from = lender != nullptr ? *lender : none;
  // Another granularity is not modelled, and no card has one.
  gpu.spec.granularity = bytes("granularity_bytes", kPage, kPage, from.spec.granularity);
  gpu.shared_page_limit = bytes("shared_page_limit_bytes", 0, kPage, from.shared_page_limit);
  gpu.unusable = bytes("unusable_bytes", 0, kMaxMemory, from.unusable);
  gpu.l2_cache = bytes("l2_cache_bytes", 1, kMaxMemory, from.l2_cache);
  parse_rates(fields, gpu, lender);
  parse_driver_costs(fields, gpu, lender);
  parse_outside(fields, gpu, lender);
  fields.only(kKeys);
  if (fields.error()) {
    return *fields.error();
  }
  return gpu;
}

Expected<Json> parse_object(std::string_view json, const std::string& file) {
  Json object;
  if (const auto fault = parse_json(json, object)) {
    return invalid_input(std::string{fault->what}, position_in(json, fault->byte, file));
  }
  if (!object.is_object()) {
    return invalid_input("a card's description is a JSON object", InputPosition{.file = file});
  }
  if (object.contains("gpus")) {  // what `gpus NAME --format json` writes
    Json cards = std::move(object["gpus"]);
    if (!cards.is_array() || cards.size() != 1 || !cards[0].is_object()) {
      return invalid_input("holds several cards, or none: 'gpus NAME --format json' writes one",
                           InputPosition{.file = file});
    }
    object = std::move(cards[0]);
  }
  return object;
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
  const auto object = parse_object(json, file);
  if (!object) {
    return object.error();
  }
  return parse_card(object.value(), file, &reference_gpu());
}

const GpuDescription& reference_gpu() {
  static const GpuDescription kCard = [] {
    for (const EmbeddedFile& entry : embedded_gpus()) {
      if (entry.name == kReferenceCard) {
        const auto object = parse_object(entry.text, std::string{entry.name});
        check(object.has_value(), "the reference card's description is JSON");
        auto card = parse_card(object.value(), std::string{entry.name}, nullptr);
        check(card.has_value(), "the reference card's description is valid and whole");
        return std::move(card).value();
      }
    }
    check(false, "the reference card is embedded");
    return GpuDescription{};
  }();
  return kCard;
}

namespace {

/// The known cards that `word` may mean: one, or those that differ in nothing but memory.
std::vector<std::string_view> gpus_meant(std::string_view word) {
  const std::string wanted = card_letters(word);
  std::vector<std::string_view> meant;
  if (wanted.empty()) {
    return meant;
  }
  for (const EmbeddedFile& entry : embedded_gpus()) {
    const std::string_view name = entry.name;
    if (card_letters(name) == wanted) {
      return {name};
    }
    if (card_letters(name.substr(0, name.rfind('-'))) == wanted) {  // all but its memory
      meant.push_back(name);
      continue;
    }
    // As the driver reports it: "NVIDIA H100 80GB HBM3".
    const auto card = parse_gpu_description(entry.text, std::string{name});
    if (card && card->spec.name == word) {
      return {name};
    }
  }
  return meant;
}

}  // namespace

Expected<GpuDescription> load_gpu_description(const std::string& gpu) {
  std::vector<std::string_view> names;
  for (const EmbeddedFile& entry : embedded_gpus()) {
    if (gpu == kReferenceCard) {
      return reference_gpu();
    }
    if (entry.name == gpu) {
      return parse_gpu_description(entry.text, gpu);
    }
    names.push_back(entry.name);
  }
  std::error_code error;
  const bool looks_like_a_path = gpu.find('/') != std::string::npos || gpu.ends_with(".json");
  if (!looks_like_a_path && !std::filesystem::exists(gpu, error)) {
    std::vector<std::string_view> meant = gpus_meant(gpu);
    if (meant.size() == 1) {
      return load_gpu_description(std::string{meant.front()});
    }
    if (meant.empty()) {  // the card with another memory
      meant = gpus_meant(gpu.substr(0, gpu.rfind('-')));
    }
    return invalid_input(
        unknown_word("GPU", meant.empty() ? gpu : plain_word(gpu), meant.empty() ? names : meant) +
        ", and there is no such file");
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
