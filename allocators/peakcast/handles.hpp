#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "allocators/peakcast/extents.hpp"
#include "sim/core/units.hpp"
#include "sim/device/device.hpp"

namespace peakcast::near_floor {

/// A stretch of home addresses.
struct Range {
  std::uint64_t home{};
  std::uint64_t size{};
};

/// The physical allocations of the driver. Each is mapped at its home address for as long as it is
/// held; views (views.hpp) map it a second time. Where one ends and the next begins is where memory
/// can be stitched.
class Handles {
 public:
  static constexpr std::uint32_t kNone = 0xffffffffU;
  struct Handle {
    std::uint64_t home{};
    std::uint64_t size{};  ///< 0: not in use
    PhysicalId physical{};
    std::vector<std::uint32_t> views{};  ///< that map it, each as often as it does
    [[nodiscard]] std::uint64_t end() const { return home + size; }
  };

  /// Homes lie from `begin` on; all sizes are multiples of `granularity`, a power of two.
  Handles(Device& device, std::uint64_t begin, std::uint64_t granularity);

  /// Takes up to `size` from the driver in handles of about `handle_size`, maps them one behind the
  /// other from `home` on, and says how much it got.
  [[nodiscard]] std::uint64_t create(std::uint64_t home, std::uint64_t size,
                                     std::uint64_t handle_size);
  /// Gives back what lies in [home, home + size): whole handles that no view maps.
  void destroy(std::uint64_t home, std::uint64_t size);

  [[nodiscard]] std::uint32_t at(std::uint64_t address) const {
    const std::size_t page = page_of(address);
    return page < of_page_.size() ? of_page_[page] : kNone;
  }
  /// The whole handles in [begin, end), which is one hole. Its size is 0 where there are none.
  [[nodiscard]] Range whole_within(std::uint64_t begin, std::uint64_t end) const {
    if (begin >= end) {
      return {begin, 0};
    }
    const Handle& low = handles_[at(begin)];
    const Handle& high = handles_[at(end - 1)];
    const std::uint64_t first = begin == low.home ? begin : low.end();
    const std::uint64_t last = end == high.end() ? end : high.home;
    return {first, last > first ? last - first : 0};
  }
  [[nodiscard]] Handle& operator[](std::uint32_t id) { return handles_[id]; }
  [[nodiscard]] const Handle& operator[](std::uint32_t id) const { return handles_[id]; }
  [[nodiscard]] std::uint64_t held() const { return held_; }
  [[nodiscard]] std::uint64_t granularity() const { return granularity_; }
  /// How many there are.
  [[nodiscard]] std::int64_t count() const { return count_; }

 private:
  [[nodiscard]] std::size_t page_of(std::uint64_t address) const {
    return static_cast<std::size_t>((address - begin_) / granularity_);
  }
  Device& device_;
  std::uint64_t begin_;
  std::uint64_t granularity_;
  std::uint64_t held_{};
  std::int64_t count_{};
  std::vector<Handle> handles_{};
  std::vector<std::uint32_t> unused_{};
  std::vector<std::uint32_t> of_page_{};  ///< by page of the granularity
};

}  // namespace peakcast::near_floor
