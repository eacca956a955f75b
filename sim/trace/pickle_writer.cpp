#include "sim/trace/pickle_writer.hpp"

#include <bit>
#include <cstdint>
#include <utility>

#include "sim/trace/pickle_opcode.hpp"

namespace peakcast {

using namespace pickle_opcode;

namespace {

void append_little_endian(std::string& out, std::uint64_t value, unsigned width) {
  for (unsigned i = 0; i < width; ++i) {
    out += static_cast<char>(static_cast<unsigned char>(value >> (8 * i)));
  }
}

}  // namespace

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
