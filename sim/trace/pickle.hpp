#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sim/core/error.hpp"

namespace peakcast {

/// A value of plain data: what a Python pickle or a JSON file may hold here. Sixteen bytes; lists,
/// dicts and texts live in their Document.
struct DataValue {
  enum class Kind : std::uint8_t { none, boolean, integer, real, text, list, dict };
  Kind kind{};
  union {
    std::int64_t integer{};  ///< boolean (0, 1) and integer
    double real;
    std::uint64_t index;  ///< text, list, dict: into the Document
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

/// Reads a pickle of protocol 2 to 5 that holds data only: None, booleans, integers of 64 bits,
/// floats, texts, bytes, lists, tuples, dicts and the memo. An own machine, no part of Python's:
/// it has no opcode that could name or call anything, and refuses those (GLOBAL, STACK_GLOBAL,
/// REDUCE, BUILD, OBJ, INST, NEWOBJ, NEWOBJ_EX, PERSID, BINPERSID, EXT, buffers) by name, with the
/// offset. Memory is at most some 128 bytes per byte of input: no claimed length is believed before
/// the bytes are there, and nothing recurses. O(bytes).
[[nodiscard]] Expected<Document> read_pickle(std::string_view bytes, const std::string& name);

/// The JSON twin. Nesting beyond 64 levels is refused.
[[nodiscard]] Expected<Document> read_json_document(std::string_view bytes,
                                                    const std::string& name);

/// Writes pickles of protocol 4 in the opcodes that the standard snapshot viewer's own unpickler
/// knows. Texts are memoised. Items go into lists and dicts a thousand at a time, as Python's own
/// writer has it: the viewer hands all of an APPENDS to one call, which overflows from some 125
/// 000.
class PickleWriter {
 public:
  PickleWriter();
  void none();
  void boolean(bool value);
  void integer(std::int64_t value);
  void real(double value);
  void text(std::string_view value);
  /// Containers: begin, then values (or key, value pairs), then end. Empty ones are allowed.
  void begin_list();
  void end_list();
  void begin_dict();
  void end_dict();
  /// A pair of two integers, as a tuple.
  void pair(std::int64_t first, std::int64_t second);
  /// Remembers the value just written; recall() writes it again.
  [[nodiscard]] std::uint32_t remember();
  void recall(std::uint32_t memo);
  /// Ends the pickle.
  [[nodiscard]] std::string take();

 private:
  struct Open {
    bool dict{};
    int values{};  ///< since the last APPENDS or SETITEMS; a pair of a dict counts two
  };
  void begin_value();
  void put_integer(std::int64_t value);
  std::string out_;
  std::vector<Open> open_{};
  std::uint32_t memo_{};
  std::unordered_map<std::string, std::uint32_t> memo_of_text_{};  // never iterated
};

}  // namespace peakcast
