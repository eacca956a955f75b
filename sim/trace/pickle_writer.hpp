#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace peakcast {

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
