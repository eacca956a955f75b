#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "allocators/peakcast/extents.hpp"
#include "sim/core/units.hpp"
#include "sim/device/streams.hpp"

namespace peakcast::near_floor {

/// Who must have finished before memory may be used again. A stream's own work is in order, so it
/// may use at once what it let go; another stream first waits, on the device, for an event that was
/// recorded behind the last use. Free memory carries a stamp: the stream that let it go, and when.
/// Time is counted in recorded events, and one is recorded on the stream that the program leaves
/// whenever it asks for another: so the wait is for what was in the stream when the memory was let
/// go, or a little more, and not for all that the host has queued since. With one stream nothing is
/// ever recorded.
///
/// Memory of several streams that became one extent is stamped with the latest time and waits for
/// all streams: later than it must, never earlier.
class StreamOrder {
 public:
  explicit StreamOrder(Streams& streams) : streams_{streams} {}
  ~StreamOrder();
  StreamOrder(const StreamOrder&) = delete;
  StreamOrder& operator=(const StreamOrder&) = delete;

  /// The program asks for memory of `stream`.
  void turn_to(std::uint16_t stream) {
    if (stream != present_) [[unlikely]] {
      turn(stream);
    }
  }
  /// Of memory that `stream` lets go now. Precondition: it has asked for some.
  [[nodiscard]] Stamp let_go(std::uint16_t stream) {
    if (!several_) [[likely]] {
      return make(stream, 0);
    }
    Line& line = lines_[stream];
    line.last_use = clock_ + 1;
    line.used_since_event = true;
    return make(stream, clock_);
  }
  /// Of memory whose users have all finished.
  static constexpr Stamp kFinished = 0;
  /// Of two that become one.
  [[nodiscard]] static Stamp merge(Stamp a, Stamp b) {
    if (a == kFinished || b == kFinished || stream_of(a) == stream_of(b)) {
      return a > b ? a : b;
    }
    return make(kSeveral, std::max(time_of(a), time_of(b)));
  }
  /// `stream` is about to use memory stamped `stamp`.
  void before_use(std::uint16_t stream, Stamp stamp) {
    if (several_ && stamp != kFinished && stream_of(stamp) != stream) [[unlikely]] {
      wait(stream, stamp);
    }
  }

 private:
  // Stream + 1 in the low bits, so that 0 is none: of one stream, the later one is the greater.
  static constexpr unsigned kStreamBits = 17;
  static constexpr std::uint32_t kSeveral = 0x10000;
  [[nodiscard]] static Stamp make(std::uint32_t stream, std::uint64_t time) {
    return time << kStreamBits | (stream + 1);
  }
  [[nodiscard]] static std::uint32_t stream_of(Stamp stamp) {
    return static_cast<std::uint32_t>(stamp & ((std::uint64_t{1} << kStreamBits) - 1)) - 1;
  }
  [[nodiscard]] static std::uint64_t time_of(Stamp stamp) { return stamp >> kStreamBits; }

  struct Recorded {
    std::uint64_t time{};  ///< covers what was let go up to then
    EventId event{};
  };
  struct Line {
    std::deque<Recorded> events{};
    std::vector<std::uint64_t> waited{};  ///< by stream: 1 + up to when it waited for that one
    std::uint64_t finished{};             ///< 1 + up to when its work is known to have ended
    std::uint64_t last_use{};             ///< 1 + when it last let go of anything; 0: never
    bool used_since_event{};
  };
  void turn(std::uint16_t stream);
  void record(std::uint16_t stream);
  void wait(std::uint16_t waiter, Stamp stamp);
  void wait_for(std::uint16_t waiter, std::uint16_t stream, std::uint64_t time);

  Streams& streams_;
  std::uint32_t present_{kSeveral};  ///< kSeveral: none yet
  bool several_{};
  std::uint64_t clock_{1};
  std::vector<Line> lines_{};  ///< by stream
};

}  // namespace peakcast::near_floor
