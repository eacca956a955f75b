#include "sim/trace/pickle.hpp"

#include <bit>
#include <charconv>
#include <cstdint>
#include <optional>
#include <system_error>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/core/size_text.hpp"
#include "sim/trace/pickle_opcode.hpp"

namespace peakcast {
namespace {

using namespace pickle_opcode;

using Kind = DataValue::Kind;

/// Opcodes that are refused, by name; null for those that no protocol knows.
const char* refused_name(unsigned char opcode) {
  switch (opcode) {
    case 'c':
      return "GLOBAL";
    case 0x93:
      return "STACK_GLOBAL";
    case 'R':
      return "REDUCE";
    case 'b':
      return "BUILD";
    case 'i':
      return "INST";
    case 'o':
      return "OBJ";
    case 0x81:
      return "NEWOBJ";
    case 0x92:
      return "NEWOBJ_EX";
    case 'P':
      return "PERSID";
    case 'Q':
      return "BINPERSID";
    case 0x82:
      return "EXT1";
    case 0x83:
      return "EXT2";
    case 0x84:
      return "EXT4";
    case 0x8f:
      return "EMPTY_SET";
    case 0x90:
      return "ADDITEMS";
    case 0x91:
      return "FROZENSET";
    case 0x96:
      return "BYTEARRAY8";
    case 0x97:
      return "NEXT_BUFFER";
    case 0x98:
      return "READONLY_BUFFER";
    default:
      return nullptr;
  }
}

class Machine {
 public:
  Machine(std::string_view bytes, const std::string& name, Bytes most)
      : bytes_{bytes}, name_{name}, most_{most}, left_{most.count()} {}

  Expected<Document> run() {
    while (!fault_ && !stopped_) {
      op_at_ = at_;
      if (at_ == bytes_.size()) {
        fail("the pickle is cut off");
        break;
      }
      step(static_cast<unsigned char>(bytes_[at_++]));
      if (left_ < 0) {
        fail(fmt::format("it takes more than {} of memory: --max-memory allows more",
                         size_text(most_)));
      }
    }
    if (!fault_ && at_ != bytes_.size()) {
      op_at_ = at_;
      fail("bytes after the pickle's end");
    }
    if (!fault_ && (stack_.size() != 1 || !marks_.empty())) {
      fail("STOP with " + std::to_string(stack_.size()) + " values on the stack");
    }
    if (fault_) {
      return *std::move(fault_);
    }
    document_.root = stack_.back();
    return std::move(document_);
  }

 private:
  void fail(std::string message) {
    if (!fault_) {
      fault_ = invalid_input(std::move(message),
                             InputPosition{name_, 0, 0, static_cast<std::int64_t>(op_at_)});
    }
  }

  /// The next `count` bytes; empty and a fault when they are not there.
  std::string_view take(std::uint64_t count) {
    if (count > bytes_.size() - at_) {
      fail(fmt::format("{} bytes are claimed, {} are left", count, bytes_.size() - at_));
      return {};
    }
    const std::string_view taken = bytes_.substr(at_, static_cast<std::size_t>(count));
    at_ += taken.size();
    return taken;
  }

  /// Little-endian, unsigned.
  std::uint64_t number(unsigned width) {
    std::uint64_t value = 0;
    const std::string_view taken = take(width);
    for (std::size_t i = taken.size(); i-- > 0;) {
      value = value << 8U | static_cast<unsigned char>(taken[i]);
    }
    return value;
  }

  /// Vectors grow to twice what they hold.
  void spend(std::size_t bytes) { left_ -= static_cast<std::int64_t>(2 * bytes); }

  void push(const DataValue& value) {
    spend(sizeof(value));
    stack_.push_back(value);
  }
  void push_text(std::string_view text) {
    if (!fault_) {
      spend(sizeof(text));
      document_.texts.push_back(text);
      push(indexed_value(Kind::text, document_.texts.size() - 1));
    }
  }
  void push_list(std::vector<DataValue> items) {
    spend(sizeof(items));
    document_.lists.push_back(std::move(items));
    push(indexed_value(Kind::list, document_.lists.size() - 1));
  }

  void new_dict() {
    spend(sizeof(std::vector<Document::Pair>));
    document_.dicts.emplace_back();
  }

  /// Whether `count` values lie above the innermost mark.
  bool have(std::size_t count) {
    const std::size_t floor = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() - floor < count) {
      fail("the stack holds too little");
      return false;
    }
    return true;
  }

  /// The values above the innermost mark, taken off together with it.
  std::vector<DataValue> take_to_mark() {
    if (marks_.empty()) {
      fail("there is no mark");
      return {};
    }
    const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<DataValue> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    marks_.pop_back();
    return items;
  }

  std::vector<DataValue>* list_on_top() {
    if (!have(1)) {
      return nullptr;
    }
    if (stack_.back().kind != Kind::list) {
      fail("what is appended to is no list");
      return nullptr;
    }
    return &document_.lists[stack_.back().index];
  }

  void set_items(const std::vector<DataValue>& items) {
    if (fault_ || !have(1)) {
      return;
    }
    if (stack_.back().kind != Kind::dict) {
      fail("what is set into is no dict");
      return;
    }
    if (items.size() % 2 != 0) {
      fail("a key without a value");
      return;
    }
    std::vector<Document::Pair>& pairs = document_.dicts[stack_.back().index];
    spend(items.size() * sizeof(DataValue));
    for (std::size_t i = 0; i < items.size(); i += 2) {
      pairs.emplace_back(items[i], items[i + 1]);
    }
  }

  void tuple(std::size_t count) {
    if (!have(count)) {
      return;
    }
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
    std::vector<DataValue> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    push_list(std::move(items));
  }

  void get(std::uint64_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) {
      fail(fmt::format("memo {} was never set", key));
    } else {
      push(found->second);
    }
  }
  void put(std::uint64_t key) {
    if (have(1)) {
      spend(sizeof(DataValue) + 3 * sizeof(void*));
      memo_[key] = stack_.back();
    }
  }

  /// Two's complement, low byte first. What 64 bits do not hold becomes a float.
  void long_integer(std::uint64_t width) {
    const std::string_view taken = take(width);
    const bool negative = !taken.empty() && (static_cast<unsigned char>(taken.back()) & 0x80U) != 0;
    if (taken.size() <= 8) {
      std::uint64_t value = negative ? ~std::uint64_t{0} : 0;
      for (std::size_t i = taken.size(); i-- > 0;) {
        value = value << 8U | static_cast<unsigned char>(taken[i]);
      }
      push(integer_value(static_cast<std::int64_t>(value)));
      return;
    }
    double value = negative ? -1.0 : 0.0;
    for (std::size_t i = taken.size(); i-- > 0;) {
      value = value * 256.0 + static_cast<unsigned char>(taken[i]);
    }
    push(real_value(value));
  }

  /// The rest of the line, of protocols 0 and 1.
  std::string_view line() {
    const std::size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) {
      fail("a line without its end");
      return {};
    }
    const std::string_view text = bytes_.substr(at_, end - at_);
    at_ = end + 1;
    return text;
  }

  template <class T>
  void decimal(std::string_view text, const char* what) {
    T value{};
    const auto [end, wrong] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool whole = end == text.data() + text.size() && !text.empty();
    if constexpr (std::is_same_v<T, double>) {
      if (whole && wrong == std::errc{}) {
        push(real_value(value));
        return;
      }
    } else if (whole && wrong == std::errc{}) {
      push(integer_value(value));
      return;
    } else if (whole && wrong == std::errc::result_out_of_range) {
      decimal<double>(text, what);
      return;
    }
    if (!fault_) {
      fail(fmt::format("{} has no number", what));
    }
  }

  /// INT: also the booleans of protocol 0.
  void int_line() {
    const std::string_view text = line();
    if (text == "00" || text == "01") {
      push(boolean_value(text == "01"));
    } else {
      decimal<std::int64_t>(text, "INT");
    }
  }
  void long_line() {
    std::string_view text = line();
    if (text.ends_with('L')) {
      text.remove_suffix(1);
    }
    decimal<std::int64_t>(text, "LONG");
  }
  /// GET and PUT.
  std::optional<std::uint64_t> memo_line() {
    const std::string_view text = line();
    std::uint64_t key{};
    const auto [end, wrong] = std::from_chars(text.data(), text.data() + text.size(), key);
    if (wrong != std::errc{} || end != text.data() + text.size()) {
      fail("a memo key is no number");
      return std::nullopt;
    }
    return key;
  }

  void push_owned(std::string text) {
    spend(sizeof(text) + text.size());
    push_text(document_.owned.emplace_back(std::move(text)));
  }

  static void append_utf8(std::string& out, std::uint32_t code) {
    const auto put = [&](std::uint32_t byte) {
      out += static_cast<char>(static_cast<unsigned char>(byte));
    };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xc0U | code >> 6U);
      put(0x80U | (code & 0x3fU));
    } else if (code < 0x10000) {
      put(0xe0U | code >> 12U);
      put(0x80U | (code >> 6U & 0x3fU));
      put(0x80U | (code & 0x3fU));
    } else {
      put(0xf0U | code >> 18U);
      put(0x80U | (code >> 12U & 0x3fU));
      put(0x80U | (code >> 6U & 0x3fU));
      put(0x80U | (code & 0x3fU));
    }
  }

  /// `digits` hexadecimal ones from `at` on; nullopt when they are not there.
  static std::optional<std::uint32_t> hex(std::string_view text, std::size_t at,
                                          std::size_t digits) {
    if (at + digits > text.size()) {
      return std::nullopt;
    }
    std::uint32_t code{};
    const char* const end = text.data() + at + digits;
    const auto [stop, wrong] = std::from_chars(text.data() + at, end, code, 16);
    return wrong == std::errc{} && stop == end && code <= 0x10ffff ? std::optional{code}
                                                                   : std::nullopt;
  }

  /// UNICODE: Latin-1, with \\uXXXX and \\UXXXXXXXX for the rest (raw-unicode-escape).
  void unicode_line() {
    const std::string_view text = line();
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const char kind = text[i] == '\\' && i + 1 < text.size() ? text[i + 1] : '\0';
      if (kind == 'u' || kind == 'U') {
        const std::size_t digits = kind == 'u' ? 4 : 8;
        const auto code = hex(text, i + 2, digits);
        if (!code) {
          fail("UNICODE with a broken escape");
          return;
        }
        append_utf8(out, *code);
        i += 1 + digits;
      } else {
        append_utf8(out, static_cast<unsigned char>(text[i]));
      }
    }
    push_owned(std::move(out));
  }

  /// STRING: as Python's repr() writes it, in either kind of quotes.
  void string_line() {
    const std::string_view text = line();
    if (text.size() < 2 || (text[0] != '\'' && text[0] != '"') || text.back() != text[0]) {
      fail("STRING without its quotes");
      return;
    }
    std::string out;
    for (std::size_t i = 1; i + 1 < text.size(); ++i) {
      if (text[i] != '\\' || i + 2 >= text.size()) {
        out += text[i];
        continue;
      }
      const char kind = text[++i];
      if (kind == 'x') {
        const auto code = hex(text, i + 1, 2);
        if (!code) {
          fail("STRING with a broken escape");
          return;
        }
        out += static_cast<char>(static_cast<unsigned char>(*code));
        i += 2;
      } else {
        constexpr std::string_view kNames{"nrtabfv"};
        constexpr std::string_view kMeant{"\n\r\t\a\b\f\v"};
        const std::size_t named = kNames.find(kind);
        out += named == std::string_view::npos ? kind : kMeant[named];
      }
    }
    push_owned(std::move(out));
  }

  /// The opcodes of protocols 0 and 1; false when it is none of them.
  bool step_of_lines(unsigned char opcode) {
    switch (opcode) {
      case kInt:
        int_line();
        return true;
      case kLong:
        long_line();
        return true;
      case kFloat:
        decimal<double>(line(), "FLOAT");
        return true;
      case kString:
        string_line();
        return true;
      case kUnicode:
        unicode_line();
        return true;
      case kGet:
      case kPut:
        if (const auto key = memo_line()) {
          if (opcode == kGet) {
            get(*key);
          } else {
            put(*key);
          }
        }
        return true;
      default:
        return false;
    }
  }

  void step(unsigned char opcode) {
    switch (opcode) {
      case kProto: {
        const std::uint64_t protocol = number(1);
        if (!fault_ && protocol > 5) {
          fail(fmt::format("pickle protocol {}; 0 to 5 can be read", protocol));
        }
        break;
      }
      case kFrame: {
        const std::uint64_t size = number(8);
        if (!fault_ && size > bytes_.size() - at_) {
          fail(fmt::format("a frame of {} bytes is claimed, {} are left", size,
                           bytes_.size() - at_));
        }
        break;
      }
      case kStop:
        stopped_ = true;
        break;
      case kMark:
        spend(sizeof(std::size_t));
        marks_.push_back(stack_.size());
        break;
      case kPop:
        // Python's POP takes the mark when it is on top.
        if (!marks_.empty() && marks_.back() == stack_.size()) {
          marks_.pop_back();
        } else if (have(1)) {
          stack_.pop_back();
        }
        break;
      case kPopMark:
        static_cast<void>(take_to_mark());
        break;
      case kDup:
        if (have(1)) {
          push(DataValue{stack_.back()});
        }
        break;
      case kNone:
        push(DataValue{});
        break;
      case kNewTrue:
      case kNewFalse:
        push(boolean_value(opcode == kNewTrue));
        break;
      case kBinInt:
        push(integer_value(static_cast<std::int32_t>(static_cast<std::uint32_t>(number(4)))));
        break;
      case kBinInt1:
        push(integer_value(static_cast<std::int64_t>(number(1))));
        break;
      case kBinInt2:
        push(integer_value(static_cast<std::int64_t>(number(2))));
        break;
      case kLong1:
        long_integer(number(1));
        break;
      case kLong4:
        long_integer(number(4));
        break;
      case kBinFloat: {
        std::uint64_t bits = 0;
        for (const char byte : take(8)) {
          bits = bits << 8U | static_cast<unsigned char>(byte);
        }
        push(real_value(std::bit_cast<double>(bits)));
        break;
      }
      case kShortBinUnicode:
      case kShortBinString:
      case kShortBinBytes:
        push_text(take(number(1)));
        break;
      case kBinUnicode:
      case kBinString:
      case kBinBytes:
        push_text(take(number(4)));
        break;
      case kBinUnicode8:
      case kBinBytes8:
        push_text(take(number(8)));
        break;
      case kEmptyList:
      case kEmptyTuple:
        push_list({});
        break;
      case kList:
      case kTuple:
        push_list(take_to_mark());
        break;
      case kTuple1:
        tuple(1);
        break;
      case kTuple2:
        tuple(2);
        break;
      case kTuple3:
        tuple(3);
        break;
      case kAppend: {
        if (!have(2)) {
          break;
        }
        const DataValue item = stack_.back();
        stack_.pop_back();
        if (auto* list = list_on_top()) {
          spend(sizeof(item));
          list->push_back(item);
        }
        break;
      }
      case kAppends: {
        const std::vector<DataValue> items = take_to_mark();
        if (auto* list = fault_ ? nullptr : list_on_top()) {
          spend(items.size() * sizeof(DataValue));
          list->insert(list->end(), items.begin(), items.end());
        }
        break;
      }
      case kEmptyDict:
        new_dict();
        push(indexed_value(Kind::dict, document_.dicts.size() - 1));
        break;
      case kDict: {
        const std::vector<DataValue> items = take_to_mark();
        new_dict();
        push(indexed_value(Kind::dict, document_.dicts.size() - 1));
        set_items(items);
        break;
      }
      case kSetItem: {
        if (!have(3)) {
          break;
        }
        const std::vector<DataValue> items(stack_.end() - 2, stack_.end());
        stack_.erase(stack_.end() - 2, stack_.end());
        set_items(items);
        break;
      }
      case kSetItems:
        set_items(take_to_mark());
        break;
      case kBinGet:
        get(number(1));
        break;
      case kLongBinGet:
        get(number(4));
        break;
      case kBinPut:
        put(number(1));
        break;
      case kLongBinPut:
        put(number(4));
        break;
      case kMemoize:
        put(memo_.size());
        break;
      default:
        if (step_of_lines(opcode)) {
          break;
        }
        if (const char* known = refused_name(opcode)) {
          fail(fmt::format("opcode {} is refused: a snapshot is plain data", known));
        } else {
          fail(fmt::format("byte 0x{:02x} is no pickle opcode", opcode));
        }
        break;
    }
  }

  std::string_view bytes_;
  const std::string& name_;
  Bytes most_;
  std::int64_t left_;  // of most_
  std::size_t at_{};
  std::size_t op_at_{};
  bool stopped_{};
  std::vector<DataValue> stack_{};
  std::vector<std::size_t> marks_{};                     // stack sizes
  std::unordered_map<std::uint64_t, DataValue> memo_{};  // never iterated
  Document document_{};
  std::optional<Error> fault_{};
};

}  // namespace

Expected<Document> read_pickle(std::string_view bytes, const std::string& name, Bytes most) {
  return Machine{bytes, name, most}.run();
}

}  // namespace peakcast
