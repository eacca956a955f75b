#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "allocators/peakcast/extents.hpp"
#include "allocators/peakcast/handles.hpp"
#include "allocators/peakcast/views.hpp"

namespace peakcast::near_floor {

/// Which free memory a block is put together from. One behind the other it takes, from any holes,
///
///     [end of a handle][whole handles][whole handles] ... [whole handles][begin of a handle]
///
/// so that only the joints must be ends of handles: where the block begins and where it ends is
/// free, and no byte is rounded away.
class Stitcher {
 public:
  Stitcher(const Extents& extents, const Handles& handles) : extents_{extents}, handles_{handles} {}

  /// What can be stitched at present, at most.
  [[nodiscard]] std::uint64_t room();
  /// The parts of a block of `size` and the handles that they lie in, both in order; false: there
  /// is not enough. Few handles are preferred, since each costs a mapping.
  [[nodiscard]] bool choose(std::uint64_t size, std::vector<Range>& parts,
                            std::vector<std::uint32_t>& sequence);

 private:
  /// A free extent, cut at the ends of handles.
  struct Run {
    std::uint64_t home{};
    std::uint64_t suffix{};  ///< before the first end of a handle
    std::uint64_t middle{};  ///< whole handles
    std::uint64_t prefix{};  ///< behind the last end of a handle
    [[nodiscard]] std::uint64_t as_first() const { return suffix + middle; }
    [[nodiscard]] std::uint64_t as_last() const { return middle + prefix; }
  };
  void collect();
  [[nodiscard]] bool compose(std::uint64_t size, std::size_t first, std::size_t last,
                             std::vector<Range>& parts) const;
  [[nodiscard]] bool handles_of(const std::vector<Range>& parts,
                                std::vector<std::uint32_t>& sequence) const;

  const Extents& extents_;
  const Handles& handles_;
  std::vector<Run> runs_{};  ///< the largest middles first
};

}  // namespace peakcast::near_floor
