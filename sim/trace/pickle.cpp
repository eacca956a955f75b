#include "sim/trace/pickle.hpp"

#include <bit>
#include <cstring>
#include <optional>
#include <unordered_map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace peakcast {
namespace {

using Kind = DataValue::Kind;

// The opcodes that build data (Python's pickletools describes them all).
constexpr unsigned char kMark = '(';
constexpr unsigned char kStop = '.';
constexpr unsigned char kPop = '0';
constexpr unsigned char kPopMark = '1';
constexpr unsigned char kDup = '2';
constexpr unsigned char kBinFloat = 'G';
constexpr unsigned char kBinInt = 'J';
constexpr unsigned char kBinInt1 = 'K';
constexpr unsigned char kBinInt2 = 'M';
constexpr unsigned char kNone = 'N';
constexpr unsigned char kBinString = 'T';
constexpr unsigned char kShortBinString = 'U';
constexpr unsigned char kBinUnicode = 'X';
constexpr unsigned char kBinBytes = 'B';
constexpr unsigned char kShortBinBytes = 'C';
constexpr unsigned char kAppend = 'a';
constexpr unsigned char kAppends = 'e';
constexpr unsigned char kDict = 'd';
constexpr unsigned char kEmptyDict = '}';
constexpr unsigned char kEmptyList = ']';
constexpr unsigned char kEmptyTuple = ')';
constexpr unsigned char kList = 'l';
constexpr unsigned char kTuple = 't';
constexpr unsigned char kSetItem = 's';
constexpr unsigned char kSetItems = 'u';
constexpr unsigned char kBinGet = 'h';
constexpr unsigned char kLongBinGet = 'j';
constexpr unsigned char kBinPut = 'q';
constexpr unsigned char kLongBinPut = 'r';
constexpr unsigned char kProto = 0x80;
constexpr unsigned char kTuple1 = 0x85;
constexpr unsigned char kTuple2 = 0x86;
constexpr unsigned char kTuple3 = 0x87;
constexpr unsigned char kNewTrue = 0x88;
constexpr unsigned char kNewFalse = 0x89;
constexpr unsigned char kLong1 = 0x8a;
constexpr unsigned char kLong4 = 0x8b;
constexpr unsigned char kShortBinUnicode = 0x8c;
constexpr unsigned char kBinUnicode8 = 0x8d;
constexpr unsigned char kBinBytes8 = 0x8e;
constexpr unsigned char kMemoize = 0x94;
constexpr unsigned char kFrame = 0x95;

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
    case 'I':
      return "INT";
    case 'L':
      return "LONG";
    case 'F':
      return "FLOAT";
    case 'S':
      return "STRING";
    case 'V':
      return "UNICODE";
    case 'g':
      return "GET";
    case 'p':
      return "PUT";
    default:
      return nullptr;
  }
}

DataValue integer_value(std::int64_t number) {
  DataValue value;
  value.kind = Kind::integer;
  value.integer = number;
  return value;
}

DataValue indexed(Kind kind, std::size_t index) {
  DataValue value;
  value.kind = kind;
  value.index = index;
  return value;
}

class Machine {
 public:
  Machine(std::string_view bytes, const std::string& name) : bytes_{bytes}, name_{name} {}

  Expected<Document> run() {
    while (!fault_ && !stopped_) {
      op_at_ = at_;
      if (at_ == bytes_.size()) {
        fail("the pickle is cut off");
        break;
      }
      step(static_cast<unsigned char>(bytes_[at_++]));
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

  void push(const DataValue& value) { stack_.push_back(value); }
  void push_text(std::string_view text) {
    if (!fault_) {
      document_.texts.push_back(text);
      push(indexed(Kind::text, document_.texts.size() - 1));
    }
  }
  void push_list(std::vector<DataValue> items) {
    document_.lists.push_back(std::move(items));
    push(indexed(Kind::list, document_.lists.size() - 1));
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
    pairs.reserve(pairs.size() + items.size() / 2);
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
      memo_[key] = stack_.back();
    }
  }

  void long_integer(std::uint64_t width) {
    const std::string_view taken = take(width);
    // Python writes the fewest bytes in two's complement: 64 bits may take a ninth, for the sign.
    std::uint64_t value = 0;
    for (std::size_t i = taken.size(); i-- > 0;) {
      const auto byte = static_cast<unsigned char>(taken[i]);
      if (i >= 8) {
        if (byte != 0) {
          fail("an integer of more than 64 bits");
          return;
        }
      } else {
        value = value << 8U | byte;
      }
    }
    if (!taken.empty() && taken.size() < 8 &&
        (static_cast<unsigned char>(taken.back()) & 0x80U) != 0) {
      value |= ~std::uint64_t{0} << (8 * taken.size());
    }
    if (taken.size() > 8 && value > INT64_MAX) {
      fail("an integer of more than 63 bits");
      return;
    }
    push(integer_value(static_cast<std::int64_t>(value)));
  }

  void step(unsigned char opcode) {
    switch (opcode) {
      case kProto: {
        const std::uint64_t protocol = number(1);
        if (!fault_ && (protocol < 2 || protocol > 5)) {
          fail(fmt::format("pickle protocol {}; 2 to 5 can be read", protocol));
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
      case kNewFalse: {
        DataValue value = integer_value(opcode == kNewTrue ? 1 : 0);
        value.kind = Kind::boolean;
        push(value);
        break;
      }
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
        DataValue value;
        value.kind = Kind::real;
        value.real = std::bit_cast<double>(bits);
        push(value);
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
          list->push_back(item);
        }
        break;
      }
      case kAppends: {
        const std::vector<DataValue> items = take_to_mark();
        if (auto* list = fault_ ? nullptr : list_on_top()) {
          list->insert(list->end(), items.begin(), items.end());
        }
        break;
      }
      case kEmptyDict:
        document_.dicts.emplace_back();
        push(indexed(Kind::dict, document_.dicts.size() - 1));
        break;
      case kDict: {
        const std::vector<DataValue> items = take_to_mark();
        document_.dicts.emplace_back();
        push(indexed(Kind::dict, document_.dicts.size() - 1));
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
  std::size_t at_{};
  std::size_t op_at_{};
  bool stopped_{};
  std::vector<DataValue> stack_{};
  std::vector<std::size_t> marks_{};                     // stack sizes
  std::unordered_map<std::uint64_t, DataValue> memo_{};  // never iterated
  Document document_{};
  std::optional<Error> fault_{};
};

/// Builds a Document from JSON as it is read; nlohmann's parser drives it without recursion.
class JsonBuilder {
 public:
  explicit JsonBuilder(Document& document) : document_{document} {}

  bool null() { return put(DataValue{}); }
  bool boolean(bool value) {
    DataValue out = integer_value(value ? 1 : 0);
    out.kind = Kind::boolean;
    return put(out);
  }
  bool number_integer(std::int64_t value) { return put(integer_value(value)); }
  bool number_unsigned(std::uint64_t value) {
    if (value > INT64_MAX) {
      return stop("an integer of more than 63 bits");
    }
    return put(integer_value(static_cast<std::int64_t>(value)));
  }
  bool number_float(double value, const std::string& /*text*/) {
    DataValue out;
    out.kind = Kind::real;
    out.real = value;
    return put(out);
  }
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
    document_.texts.push_back(document_.owned.emplace_back(value));
    return indexed(Kind::text, document_.texts.size() - 1);
  }
  bool put(const DataValue& value) {
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
      value = indexed(kind, document_.lists.size() - 1);
    } else {
      document_.dicts.emplace_back();
      value = indexed(kind, document_.dicts.size() - 1);
    }
    put(value);
    open_.push_back({value, {}});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  Document& document_;
  std::vector<Open> open_{};
};

void append_little_endian(std::string& out, std::uint64_t value, unsigned width) {
  for (unsigned i = 0; i < width; ++i) {
    out += static_cast<char>(static_cast<unsigned char>(value >> (8 * i)));
  }
}

}  // namespace

const DataValue* Document::find(const DataValue& value, std::string_view key) const {
  if (value.kind != Kind::dict) {
    return nullptr;
  }
  const std::vector<Pair>& pairs = dicts[value.index];
  for (std::size_t i = pairs.size(); i-- > 0;) {
    if (pairs[i].first.kind == Kind::text && texts[pairs[i].first.index] == key) {
      return &pairs[i].second;
    }
  }
  return nullptr;
}

Expected<Document> read_pickle(std::string_view bytes, const std::string& name) {
  return Machine{bytes, name}.run();
}

Expected<Document> read_json_document(std::string_view bytes, const std::string& name) {
  Document document;
  JsonBuilder builder{document};
  if (!nlohmann::json::sax_parse(bytes, &builder)) {
    return invalid_input(
        builder.why,
        InputPosition{name, 0, 0, builder.at > 0 ? static_cast<std::int64_t>(builder.at) : -1});
  }
  return document;
}

PickleWriter::PickleWriter() : out_{"\x80\x04"} {}

/// Before each value: a full batch goes to its container first.
void PickleWriter::begin_value() {
  if (open_.empty()) {
    return;
  }
  Open& open = open_.back();
  constexpr int kBatch = 1000;
  if (open.values == (open.dict ? 2 * kBatch : kBatch)) {
    out_ += static_cast<char>(open.dict ? kSetItems : kAppends);
    out_ += static_cast<char>(kMark);
    open.values = 0;
  }
  ++open.values;
}

void PickleWriter::none() {
  begin_value();
  out_ += static_cast<char>(kNone);
}

void PickleWriter::boolean(bool value) {
  begin_value();
  out_ += static_cast<char>(value ? kNewTrue : kNewFalse);
}

void PickleWriter::integer(std::int64_t value) {
  begin_value();
  put_integer(value);
}

void PickleWriter::put_integer(std::int64_t value) {
  if (value >= 0 && value < 256) {
    out_ += static_cast<char>(kBinInt1);
    append_little_endian(out_, static_cast<std::uint64_t>(value), 1);
  } else if (value >= 0 && value < 65536) {
    out_ += static_cast<char>(kBinInt2);
    append_little_endian(out_, static_cast<std::uint64_t>(value), 2);
  } else if (value >= INT32_MIN && value <= INT32_MAX) {
    out_ += static_cast<char>(kBinInt);
    append_little_endian(out_, static_cast<std::uint64_t>(value), 4);
  } else {
    out_ += static_cast<char>(kLong1);
    append_little_endian(out_, 8, 1);
    append_little_endian(out_, static_cast<std::uint64_t>(value), 8);
  }
}

void PickleWriter::real(double value) {
  begin_value();
  out_ += static_cast<char>(kBinFloat);
  const auto bits = std::bit_cast<std::uint64_t>(value);
  for (unsigned i = 8; i-- > 0;) {
    out_ += static_cast<char>(static_cast<unsigned char>(bits >> (8 * i)));
  }
}

void PickleWriter::text(std::string_view value) {
  const auto [known, fresh] = memo_of_text_.try_emplace(std::string{value}, 0);
  if (!fresh) {
    recall(known->second);
    return;
  }
  begin_value();
  out_ += static_cast<char>(kBinUnicode);
  append_little_endian(out_, value.size(), 4);
  out_.append(value);
  known->second = remember();
}

void PickleWriter::begin_list() {
  begin_value();
  out_ += static_cast<char>(kEmptyList);
  out_ += static_cast<char>(kMark);
  open_.push_back({.dict = false});
}
void PickleWriter::end_list() {
  open_.pop_back();
  out_ += static_cast<char>(kAppends);
}
void PickleWriter::begin_dict() {
  begin_value();
  out_ += static_cast<char>(kEmptyDict);
  out_ += static_cast<char>(kMark);
  open_.push_back({.dict = true});
}
void PickleWriter::end_dict() {
  open_.pop_back();
  out_ += static_cast<char>(kSetItems);
}

void PickleWriter::pair(std::int64_t first, std::int64_t second) {
  begin_value();
  put_integer(first);
  put_integer(second);
  out_ += static_cast<char>(kTuple2);
}

std::uint32_t PickleWriter::remember() {
  out_ += static_cast<char>(kMemoize);
  return memo_++;
}

void PickleWriter::recall(std::uint32_t memo) {
  begin_value();
  if (memo < 256) {
    out_ += static_cast<char>(kBinGet);
    append_little_endian(out_, memo, 1);
  } else {
    out_ += static_cast<char>(kLongBinGet);
    append_little_endian(out_, memo, 4);
  }
}

std::string PickleWriter::take() {
  out_ += static_cast<char>(kStop);
  return std::move(out_);
}

}  // namespace peakcast
