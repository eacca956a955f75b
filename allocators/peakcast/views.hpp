#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "allocators/peakcast/handles.hpp"

namespace peakcast::near_floor {

/// Further mappings of handles, one behind the other, in which a block lies in one piece although
/// its memory does not:
///
///     homes   [ H1 |used| H2 | used | H3 ]        view   [ H1 | H2 | H3 ]
///                ^^^     ^^^          ^^                    <- block ->
///
/// A view stays mapped for as long as the policy can afford it, so that nothing waits for the
/// device; memory is free or not at its home only.
class Views {
 public:
  static constexpr std::uint32_t kNone = 0xffffffffU;

  Views(Device& device, Handles& handles) : device_{device}, handles_{handles} {}

  /// A view over `sequence`, which is there already or is mapped now; kNone: no address space.
  [[nodiscard]] std::uint32_t over(std::span<const std::uint32_t> sequence);
  /// Where [offset, offset + size) of `view` is at home: in `out`, neighbours as one.
  void ranges(std::uint32_t view, std::uint64_t offset, std::uint64_t size,
              std::vector<Range>& out) const;
  /// A free stretch of at least `size` in one of the views used last: its view and offset.
  [[nodiscard]] std::optional<std::pair<std::uint32_t, std::uint64_t>> find(
      std::uint64_t size, const Extents& extents) const;

  /// A block was put into `view`; one left it.
  void enter(std::uint32_t view);
  void leave(std::uint32_t view);
  /// Whether `view` is whole and maps [address, address + size).
  [[nodiscard]] bool holds(std::uint32_t view, std::uint64_t address, std::uint64_t size) const {
    const View& v = views_[view];
    return v.address <= address && address + size <= v.address + v.size && !v.broken;
  }
  [[nodiscard]] std::uint64_t address(std::uint32_t view) const { return views_[view].address; }

  /// Unmaps `handle` from all views; those that hold a block keep the rest until it leaves.
  void drop(std::uint32_t handle);
  /// Unmaps idle views, the least recently used first, until at most `most` mappings are left.
  void shrink(std::int64_t most);
  [[nodiscard]] std::int64_t mappings() const { return mappings_; }
  [[nodiscard]] std::int64_t count() const { return std::ssize(views_) - std::ssize(unused_); }

 private:
  struct View {
    std::uint64_t address{};  ///< 0: not in use
    std::uint64_t size{};
    std::vector<std::uint32_t> sequence{};
    std::vector<std::uint64_t> begins{};  ///< offset of each handle
    std::uint64_t key{};
    std::int64_t blocks{};
    std::uint32_t older{kNone};  ///< whole views, in the order of their last use
    std::uint32_t newer{kNone};
    bool broken{};  ///< a handle was taken from it: no block enters any more
  };
  [[nodiscard]] std::optional<std::uint64_t> take_addresses(std::uint64_t size);
  void give_addresses(std::uint64_t address, std::uint64_t size);
  void unmap(std::uint32_t view);
  /// Into and out of the list of whole views.
  void put_newest(std::uint32_t view);
  void take_out(std::uint32_t view);
  void retire(std::uint32_t view);

  Device& device_;
  Handles& handles_;
  std::vector<View> views_{};
  std::vector<std::uint32_t> unused_{};
  std::unordered_multimap<std::uint64_t, std::uint32_t> by_key_{};  ///< never iterated
  std::uint32_t oldest_{kNone};
  std::uint32_t newest_{kNone};
  std::map<std::uint64_t, std::uint64_t> addresses_{};  ///< free address space
  std::int64_t mappings_{};
};

}  // namespace peakcast::near_floor
