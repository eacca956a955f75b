#include "allocators/pytorch/books.hpp"

#include <algorithm>

namespace peakcast::pytorch {
namespace {

/// Peaks rarely rise: a jump costs less than to write each time.
inline void raise(std::int64_t& peak, std::int64_t level) {
  if (level > peak) [[unlikely]] {
    peak = level;
  }
}

}  // namespace

template <Books::Figure kFigure>
inline void Books::note(Peaks& peaks) {
  const std::int64_t small = (own_[0].*kFigure)();
  const std::int64_t large = (own_[1].*kFigure)();
  raise(peaks[0], small);
  raise(peaks[1], large);
  raise(peaks[kAll], small + large);
}

void Books::note_allocated() {
  note<&Sums::allocated>(allocated_);
  note<&Sums::allocated_bytes>(allocated_bytes_);
  note<&Sums::requested_bytes>(requested_bytes_);
  allocated_rose_ = false;
}

void Books::note_inactive() {
  note<&Sums::inactive>(inactive_);
  note<&Sums::inactive_bytes>(inactive_bytes_);
  inactive_rose_ = false;
}

void Books::note_pending() {
  note<&Sums::active>(active_);
  note<&Sums::active_bytes>(active_bytes_);
}

void Books::begin_pending(std::size_t kind, std::int64_t bytes) {
  own_[kind].pending += 1;
  own_[kind].pending_bytes += bytes;
  ++pending_;
  note_pending();
}

void Books::end_pending(std::size_t kind, std::int64_t bytes) {
  own_[kind].pending -= 1;
  own_[kind].pending_bytes -= bytes;
  --pending_;
}

void Books::change_segments(std::size_t kind, std::int64_t count) {
  for (const std::size_t k : {kind, kAll}) {
    segments_[k].increase(std::max<std::int64_t>(count, 0));
    segments_[k].decrease(std::max<std::int64_t>(-count, 0));
  }
}

void Books::change_reserved(std::size_t kind, std::int64_t bytes) {
  for (const std::size_t k : {kind, kAll}) {
    reserved_bytes_[k].increase(std::max<std::int64_t>(bytes, 0));
    reserved_bytes_[k].decrease(std::max<std::int64_t>(-bytes, 0));
  }
}

void Books::reset_peaks() {
  for (Peaks* peaks : {&allocated_, &allocated_bytes_, &requested_bytes_, &active_, &active_bytes_,
                       &inactive_, &inactive_bytes_}) {
    *peaks = {};
  }
  for (const std::size_t k : {std::size_t{0}, std::size_t{1}, kAll}) {
    segments_[k].peak = segments_[k].current;
    reserved_bytes_[k].peak = reserved_bytes_[k].current;
  }
  note_allocated();
  note_inactive();
  note_pending();
}

std::int64_t Books::allocated_bytes() const {
  return own_[0].allocated_bytes() + own_[1].allocated_bytes();
}

Level Books::level_of(std::size_t kind, Figure figure, const Peaks& peaks,
                      std::int64_t Sums::*ups) const {
  Level level{.peak = peaks[kind]};
  for (const std::size_t k : {std::size_t{0}, std::size_t{1}}) {
    if (kind == k || kind == kAll) {
      level.current += (own_[k].*figure)();
      level.allocated += own_[k].*ups;
    }
  }
  level.peak = std::max(level.peak, level.current);
  return level;
}

MemoryStatistics Books::statistics(std::size_t kind) const {
  const auto level = [&](Figure figure, const Peaks& peaks, std::int64_t Sums::*ups) {
    return level_of(kind, figure, peaks, ups);
  };
  MemoryStatistics result{
      .allocation = level(&Sums::allocated, allocated_, &Sums::given),
      .segment = segments_[kind],
      .active = level(&Sums::active, active_, &Sums::given),
      .inactive_split = level(&Sums::inactive, inactive_, &Sums::turned_inactive),
      .allocated_bytes = level(&Sums::allocated_bytes, allocated_bytes_, &Sums::given_bytes),
      .reserved_bytes = reserved_bytes_[kind],
      .active_bytes = level(&Sums::active_bytes, active_bytes_, &Sums::given_bytes),
      .inactive_split_bytes =
          level(&Sums::inactive_bytes, inactive_bytes_, &Sums::turned_inactive_bytes),
      .requested_bytes = level(&Sums::requested_bytes, requested_bytes_, &Sums::given_requested)};
  // While nothing was pending, what was allocated was all that was active.
  result.active.peak = std::max(result.active.peak, result.allocation.peak);
  result.active_bytes.peak = std::max(result.active_bytes.peak, result.allocated_bytes.peak);
  return result;
}

}  // namespace peakcast::pytorch
