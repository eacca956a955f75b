#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace peakcast {

/// A value of plain data: what a Python pickle or a JSON file may hold here. Sixteen bytes; lists,
/// dicts and texts live in their Document.
struct DataValue {
  enum class Kind : std::uint8_t { none, boolean, integer, real, text, list, dict };
  Kind kind{};
  union {
    std::int64_t integer{};  ///< boolean (0, 1) and integer
    double real;             ///< also an integer of more than 64 bits
    std::uint64_t index;     ///< text, list, dict: into the Document
  };
};

/// Values that may share parts (a pickle's memo makes a DAG, or even a cycle): whoever walks it
/// goes down a fixed number of levels and counts what it copies. Texts are views: the bytes that
/// it was read from outlive it.
struct Document {
  using Pair = std::pair<DataValue, DataValue>;
  DataValue root{};
  std::vector<std::string_view> texts{};
  std::vector<std::vector<DataValue>> lists{};  ///< tuples too
  std::vector<std::vector<Pair>> dicts{};       ///< in order; a later pair of a key wins
  std::deque<std::string> owned{};              ///< texts that are not in the input as such

  [[nodiscard]] std::string_view text(const DataValue& value) const { return texts[value.index]; }
  [[nodiscard]] const std::vector<DataValue>& list(const DataValue& value) const {
    return lists[value.index];
  }
  [[nodiscard]] const std::vector<Pair>& dict(const DataValue& value) const {
    return dicts[value.index];
  }
  /// Null when there is no such key (or `value` is no dict).
  [[nodiscard]] const DataValue* find(const DataValue& value, std::string_view key) const;
};

[[nodiscard]] inline DataValue integer_value(std::int64_t number) {
  DataValue value;
  value.kind = DataValue::Kind::integer;
  value.integer = number;
  return value;
}
[[nodiscard]] inline DataValue boolean_value(bool is) {
  DataValue value = integer_value(is ? 1 : 0);
  value.kind = DataValue::Kind::boolean;
  return value;
}
[[nodiscard]] inline DataValue real_value(double number) {
  DataValue value;
  value.kind = DataValue::Kind::real;
  value.real = number;
  return value;
}
/// A text, list or dict of a document.
[[nodiscard]] inline DataValue indexed_value(DataValue::Kind kind, std::size_t index) {
  DataValue value;
  value.kind = kind;
  value.index = index;
  return value;
}

}  // namespace peakcast
