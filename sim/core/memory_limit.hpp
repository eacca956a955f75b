#pragma once

#include <optional>
#include <string_view>

#include "sim/core/error.hpp"
#include "sim/core/units.hpp"

namespace peakcast {

/// What an allocator may have: a size, or a part of the card's memory, as
/// set_per_process_memory_fraction() takes it.
class MemoryLimit {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): a size is a limit
  constexpr MemoryLimit(Bytes size) : size_{size} {}
  /// A size (parse_size), a fraction with its point (`0.5`) or a percentage (`50%`) of the card. A
  /// number without point and unit is bytes.
  [[nodiscard]] static Expected<MemoryLimit> parse(std::string_view text);

  /// In bytes on a card of `total`. A part rounds down, through a double, as PyTorch's does
  /// (`static_cast<size_t>(fraction * device_total)`).
  [[nodiscard]] Bytes of(Bytes total) const;
  /// It is `of(total)` from now on.
  void settle(Bytes total) { *this = of(total); }
  /// None: a part of a card that is not known yet.
  [[nodiscard]] std::optional<Bytes> size() const { return size_; }

 private:
  std::optional<Bytes> size_;
  double fraction_{};
};

/// `limit`, if there is one, settled: the flag's echo tells it in bytes.
[[nodiscard]] std::optional<Bytes> settled(std::optional<MemoryLimit>& limit, Bytes total);

}  // namespace peakcast
