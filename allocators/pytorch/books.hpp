#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "sim/alloc/allocator.hpp"

namespace peakcast::pytorch {

/// torch.cuda.memory_stats()' entries for one of {small_pool, large_pool}, and `all`.
struct MemoryStatistics {
  Level allocation{}, segment{}, active{}, inactive_split{};  ///< counts
  Level allocated_bytes{}, reserved_bytes{}, active_bytes{}, inactive_split_bytes{},
      requested_bytes{};
};

/// The books of a CachingAllocator: MemoryStatistics by kind of pool (0 small, 1 large) and of all.
/// A call of the allocator changes up to five levels of a kind and of all, and their peaks. So the
/// books hold sums, of which the levels are differences, and compare a level with its peak only
/// when it is about to fall, and when asked.
///
/// A block is allocated, pending (dropped by the program, but not free yet) or free. A free one is
/// "inactive split" when its segment is in use, that is, not one free block:
///
///     segment  [ allocated | free | pending | free ]    [         free         ]
///               <-- in use: 4 parts, all its bytes -->    not in use
///
/// The inactive are the parts of segments in use, less what is allocated or pending. PyTorch counts
/// none in expandable segments: of those only what is allocated or pending is a part here.
class Books {
 public:
  static constexpr std::size_t kAll = 2;

  // A block is handed out: before_rise(), then what happens to its segment, then rise().
  void before_rise() {
    if (inactive_rose_) {
      note_inactive();
    }
  }
  /// A segment, or a block of an expandable one, is in use from now on.
  void begin_use(std::size_t kind, std::int64_t bytes) {
    own_[kind].parts += 1;
    own_[kind].part_bytes += bytes;
  }
  /// A part became two.
  void split(std::size_t kind) { own_[kind].parts += 1; }
  /// The second of them is free, and was in no segment in use before.
  void begin_rest(std::size_t kind, std::int64_t bytes) {
    own_[kind].turned_inactive += 1;
    own_[kind].turned_inactive_bytes += bytes;
    inactive_rose_ = true;
  }
  void rise(std::size_t kind, std::int64_t bytes, std::int64_t requested) {
    Sums& own = own_[kind];
    own.given += 1;
    own.given_bytes += bytes;
    own.given_requested += requested;
    allocated_rose_ = true;
  }

  // A block is dropped and free at once: before_fall(), become_free(), fall(). Or it is pending for
  // a time: before_fall(), fall(), begin_pending(); later before_fall(), become_free(),
  // end_pending().
  void before_fall() {
    if (allocated_rose_) {
      note_allocated();
    }
  }
  /// What a block became part of when it became free.
  struct Joined {
    std::int64_t neighbours{};  ///< that were free before: 0, 1 or 2
    std::int64_t bytes{};       ///< of all together
    bool whole{};               ///< they are their segment, which is not in use any more
  };
  void become_free(std::size_t kind, std::int64_t bytes, std::int64_t requested,
                   const Joined& joined) {
    Sums& own = own_[kind];
    if (joined.neighbours + std::int64_t{joined.whole} > 1 && inactive_rose_) {
      note_inactive();  // there are fewer from here on
    }
    own.back_requested += requested;
    own.parts -= joined.neighbours;
    if (joined.whole) {
      own.parts -= 1;
      own.part_bytes -= joined.bytes;
      return;
    }
    own.turned_inactive += std::int64_t{joined.neighbours == 0};
    own.turned_inactive_bytes += bytes;
    inactive_rose_ = true;
  }
  void fall(std::size_t kind, std::int64_t bytes) {
    own_[kind].back += 1;
    own_[kind].back_bytes += bytes;
  }
  void begin_pending(std::size_t kind, std::int64_t bytes);
  void end_pending(std::size_t kind, std::int64_t bytes);
  [[nodiscard]] bool pending() const { return pending_ != 0; }
  /// The peak of what is active; after a rise while blocks are pending.
  void note_pending();

  void change_segments(std::size_t kind, std::int64_t count);
  void change_reserved(std::size_t kind, std::int64_t bytes);

  /// Peaks start again at the present levels.
  void reset_peaks();

  [[nodiscard]] std::int64_t allocated_bytes() const;
  [[nodiscard]] std::int64_t reserved_bytes() const { return reserved_bytes_[kAll].current; }
  /// Of a kind, or kAll.
  [[nodiscard]] MemoryStatistics statistics(std::size_t kind) const;

 private:
  struct alignas(128) Sums {
    // Since the start.
    std::int64_t given{}, given_bytes{}, given_requested{};
    std::int64_t back{}, back_bytes{}, back_requested{};
    std::int64_t turned_inactive{}, turned_inactive_bytes{};  // net of each call, as in PyTorch
    // At present.
    std::int64_t parts{}, part_bytes{};
    std::int64_t pending{}, pending_bytes{};

    [[nodiscard]] std::int64_t allocated() const { return given - back; }
    [[nodiscard]] std::int64_t allocated_bytes() const { return given_bytes - back_bytes; }
    [[nodiscard]] std::int64_t requested_bytes() const { return given_requested - back_requested; }
    [[nodiscard]] std::int64_t active() const { return allocated() + pending; }
    [[nodiscard]] std::int64_t active_bytes() const { return allocated_bytes() + pending_bytes; }
    [[nodiscard]] std::int64_t inactive() const { return parts - active(); }
    [[nodiscard]] std::int64_t inactive_bytes() const { return part_bytes - active_bytes(); }
  };
  /// By kind, then of all; as far as they were noted.
  using Peaks = std::array<std::int64_t, 3>;
  using Figure = std::int64_t (Sums::*)() const;

  template <Figure kFigure>
  void note(Peaks& peaks);
  void note_allocated();
  void note_inactive();
  [[nodiscard]] Level level_of(std::size_t kind, Figure figure, const Peaks& peaks,
                               std::int64_t Sums::*ups) const;

  std::array<Sums, 2> own_{};
  Peaks allocated_{}, allocated_bytes_{}, requested_bytes_{};
  Peaks active_{}, active_bytes_{};  // of moments with something pending
  Peaks inactive_{}, inactive_bytes_{};
  std::array<Level, 3> segments_{}, reserved_bytes_{};
  std::int64_t pending_{};  // blocks, of both kinds
  bool allocated_rose_{};   // since note_allocated()
  bool inactive_rose_{};    // since note_inactive()
};

}  // namespace peakcast::pytorch
