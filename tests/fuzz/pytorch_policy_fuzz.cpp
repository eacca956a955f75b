// Any bytes are a program: the first eight say under which setup, then five each say one step. The
// policy must agree with the naive reference after every step.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string_view>
#include <vector>

#include "tests/support/duel.hpp"

namespace {

using namespace peakcast;
using namespace peakcast::literals;
using support::Duel;
using support::DuelSetup;
using support::Operation;

class Bytestream {
 public:
  Bytestream(const std::uint8_t* data, std::size_t size) : data_{data}, size_{size} {}
  [[nodiscard]] bool empty() const { return at_ >= size_; }
  std::uint32_t next() { return at_ < size_ ? data_[at_++] : 0U; }
  std::uint32_t next_two() {
    const std::uint32_t high = next();
    return high << 8 | next();
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t at_{};
};

DuelSetup setup_from(Bytestream& bytes) {
  constexpr std::string_view kVersions[] = {"2.11", "2.10", "2.9", "2.8", "2.7", "2.6", "2.5"};
  DuelSetup setup;
  setup.settings = bytes.next() % support::duel_settings().size();
  setup.total = Bytes{(8 + std::int64_t{bytes.next_two()} % 2048) << 20};
  const std::int64_t limit = bytes.next_two() % 2048;
  if (limit != 0) {
    setup.limit = Bytes{limit << 20};
  }
  setup.version = kVersions[bytes.next() % std::size(kVersions)];
  const std::uint32_t bits = bytes.next();
  setup.free_waits = (bits & 1) != 0;
  setup.quiet = (bits & 2) != 0;
  return setup;
}

/// Sizes are written as mantissa and exponent, so that a changed bit moves them far or little.
std::int64_t size_from(Bytestream& bytes) {
  const std::int64_t mantissa = 256 + bytes.next();
  const std::uint32_t exponent = bytes.next();
  const std::int64_t nudge = static_cast<std::int64_t>(bytes.next() % 3) - 1;
  // Mostly up to 2^28; one exponent in 32 goes beyond any card.
  const std::uint32_t shift = exponent % 32 == 31 ? 32 + exponent / 32 * 2 : exponent % 21;
  return (mantissa << shift) / 256 + nudge * 512;
}

Operation step_from(Bytestream& bytes) {
  using Kind = Operation::Kind;
  constexpr Kind kOften[] = {Kind::allocate, Kind::allocate, Kind::allocate, Kind::allocate,
                             Kind::free,     Kind::free,     Kind::free};
  Operation step;
  const std::uint32_t kind = bytes.next();
  step.b = kind >> 6;
  const std::uint32_t which = kind & 63;
  step.kind =
      which < Operation::kKinds ? static_cast<Kind>(which) : kOften[which % std::size(kOften)];
  step.a =
      step.kind == Kind::allocate ? size_from(bytes) : static_cast<std::int64_t>(bytes.next_two());
  return step;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytestream bytes{data, size};
  const DuelSetup setup = setup_from(bytes);
  Duel duel{setup};
  std::vector<Operation> steps;
  while (!bytes.empty() && steps.size() < 2000) {
    steps.push_back(step_from(bytes));
    if (const auto trouble = duel.step(steps.back())) {
      std::ostringstream out;
      out << setup << "\n" << support::as_code(steps) << *trouble << "\n";
      std::fputs(out.str().c_str(), stderr);
      std::abort();
    }
  }
  return 0;
}
