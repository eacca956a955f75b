#include "sim/trace/json_document.hpp"

#include <utility>

#include <nlohmann/json.hpp>

namespace peakcast {
namespace {

using Kind = DataValue::Kind;

/// Builds a Document from JSON as it is read; nlohmann's parser drives it without recursion.
class JsonBuilder {
 public:
  JsonBuilder(Document& document, Bytes most) : document_{document}, left_{most.count()} {}

  bool null() { return put(DataValue{}); }
  bool boolean(bool value) { return put(boolean_value(value)); }
  bool number_integer(std::int64_t value) { return put(integer_value(value)); }
  bool number_unsigned(std::uint64_t value) {
    return put(value > INT64_MAX ? real_value(static_cast<double>(value))
                                 : integer_value(static_cast<std::int64_t>(value)));
  }
  bool number_float(double value, const std::string& /*text*/) { return put(real_value(value)); }
  bool string(const std::string& value) { return put(text(value)); }
  static bool binary(const nlohmann::json::binary_t& /*value*/) { return false; }
  bool start_object(std::size_t /*size*/) { return open(Kind::dict); }
  bool key(const std::string& value) {
    open_.back().key = text(value);
    return true;
  }
  bool end_object() { return close(); }
  bool start_array(std::size_t /*size*/) { return open(Kind::list); }
  bool end_array() { return close(); }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::json::exception& /*error*/) {
    at = position;
    why = "not valid JSON";
    return false;
  }

  std::size_t at{};
  std::string why{};

 private:
  struct Open {
    DataValue value{};
    DataValue key{};
  };
  bool stop(std::string reason) {
    why = std::move(reason);
    return false;
  }
  DataValue text(const std::string& value) {
    left_ -=
        static_cast<std::int64_t>(value.size() + sizeof(std::string) + sizeof(std::string_view));
    document_.texts.push_back(document_.owned.emplace_back(value));
    return indexed_value(Kind::text, document_.texts.size() - 1);
  }
  bool put(const DataValue& value) {
    // Vectors grow to twice what they hold, and a list or dict is a vector.
    left_ -= static_cast<std::int64_t>(2 * sizeof(Document::Pair) + sizeof(value));
    if (left_ < 0) {
      return stop("it takes too much memory: --max-memory allows more");
    }
    if (open_.empty()) {
      document_.root = value;
    } else if (open_.back().value.kind == Kind::list) {
      document_.lists[open_.back().value.index].push_back(value);
    } else {
      document_.dicts[open_.back().value.index].emplace_back(open_.back().key, value);
    }
    return true;
  }
  bool open(Kind kind) {
    constexpr std::size_t kDeepest = 64;
    if (open_.size() == kDeepest) {
      return stop("nested more than 64 levels deep");
    }
    DataValue value;
    if (kind == Kind::list) {
      document_.lists.emplace_back();
      value = indexed_value(kind, document_.lists.size() - 1);
    } else {
      document_.dicts.emplace_back();
      value = indexed_value(kind, document_.dicts.size() - 1);
    }
    if (!put(value)) {
      return false;
    }
    open_.push_back({value, {}});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  Document& document_;
  std::int64_t left_;  // bytes
  std::vector<Open> open_{};
};

}  // namespace

Expected<Document> read_json_document(std::string_view bytes, const std::string& name, Bytes most) {
  Document document;
  JsonBuilder builder{document, most};
  if (!nlohmann::json::sax_parse(bytes, &builder)) {
    return invalid_input(
        builder.why,
        InputPosition{name, 0, 0, builder.at > 0 ? static_cast<std::int64_t>(builder.at) : -1});
  }
  return document;
}

}  // namespace peakcast
