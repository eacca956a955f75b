#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <queue>
#include <string_view>
#include <vector>

#include "sim/core/slots.hpp"
#include "sim/core/units.hpp"
#include "sim/device/streams.hpp"

namespace peakcast {

/// A total order: no two events of a run share a key. Only the ends of device work are events; the
/// host's ops of one instant come after all of them, so that what ended can be reused at once.
struct EventKey {
  SimTime at{};
  std::uint64_t sequence{};  ///< order of scheduling, so ties are first come, first served
  friend constexpr auto operator<=>(const EventKey&, const EventKey&) = default;
};

/// What a piece of device work is.
enum class WorkKind : std::uint8_t {
  kernel,      ///< occupies the compute units: kernels of all streams take turns
  collective,  ///< moves data between devices: runs beside kernels, in its stream's order
};

/// What the host does while time passes.
enum class HostActivity : std::uint8_t {
  program,    ///< the framework and the launches
  allocator,  ///< inside an allocator's call, the driver's calls included
  waiting,    ///< blocked on the device
};
inline constexpr int kHostActivityCount = 3;

/// Where the time of a span went. The parts add up to the span: every nanosecond is counted once,
/// for the first of these that holds.
struct TimeSplit {
  SimDuration compute{};        ///< a kernel was running
  SimDuration communication{};  ///< only collectives were running: exposed
  SimDuration allocator{};      ///< the device idled while the host was in an allocator's call
  SimDuration host{};           ///< the device idled while the host did anything else
  [[nodiscard]] SimDuration total() const { return compute + communication + allocator + host; }
  friend TimeSplit operator-(const TimeSplit& a, const TimeSplit& b) {
    return TimeSplit{a.compute - b.compute, a.communication - b.communication,
                     a.allocator - b.allocator, a.host - b.host};
  }
  friend bool operator==(const TimeSplit&, const TimeSplit&) = default;
};

/// Hears of device work as it ends. `label` is what launch() was given.
class WorkSink {
 public:
  virtual ~WorkSink() = default;
  virtual void on_work(StreamId stream, WorkKind kind, SimTime begin, SimTime end,
                       std::uint32_t label) = 0;
};

struct TimedStreamsOptions {
  std::uint32_t streams{1};  ///< StreamId values are below this
  /// Host time of one launch of anything on a stream: the driver's share only.
  SimDuration launch_cost{};
  /// Launches that one stream's queue holds; the host blocks on a full one. Measured on an H100
  /// (driver 580.159.04, PyTorch 2.11.0+cu130, 2026-11-24): behind one sleeping kernel 1021
  /// launches return at once and the next one blocks.
  std::int64_t queue_depth{1022};
};

/// A host thread that issues work, and streams that execute it in order: a discrete-event
/// simulation. The host's clock runs ahead; whenever it moves or asks, the device catches up to it,
/// event by event in EventKey order, so an answer never depends on when it is asked.
///
/// Kernels of all streams share one set of compute units and take turns, first ready, first served;
/// collectives move data and run beside them. Serial. O(log pending) per piece of work.
class TimedStreams final : public Streams {
 public:
  explicit TimedStreams(const TimedStreamsOptions& options);

  // What an allocator asks.
  [[nodiscard]] EventId record(StreamId stream) override;
  [[nodiscard]] bool completed(EventId event) override;
  void wait(EventId event) override;
  void stream_wait(StreamId waiter, EventId event) override { wait_event(waiter, event); }
  void synchronize(StreamId stream) override;
  void synchronize_device() override;
  void forget(EventId event) override;

  // What a program does.
  /// One more stream, without work.
  [[nodiscard]] StreamId add_stream();
  /// When `event` completed. Precondition: it has.
  [[nodiscard]] SimTime completed_at(EventId event) const;
  /// Issues work that runs for `runs_for` once all work before it on `stream` has ended.
  void launch(StreamId stream, WorkKind kind, SimDuration runs_for, std::uint32_t label = 0);
  /// `stream` goes on only when `event` has completed. The host does not wait.
  void wait_event(StreamId stream, EventId event);
  /// The host is busy.
  void spend(SimDuration duration, HostActivity activity);
  /// Runs the device to the end of all work. The host's clock stays where it is.
  void drain();

  [[nodiscard]] SimTime host_now() const { return host_now_; }
  /// Of all time up to host_now() (after drain(): up to the last work's end, if that is later).
  [[nodiscard]] const TimeSplit& split() const { return split_; }
  /// Time in which kernels, and in which collectives ran, whether or not beside one another.
  [[nodiscard]] SimDuration kernel_time() const { return kernel_time_; }
  [[nodiscard]] SimDuration collective_time() const { return collective_time_; }

  /// `sink` (may be null) outlives this object or is unset.
  void set_sink(WorkSink* sink) { sink_ = sink; }

 private:
  enum class CommandKind : std::uint8_t { work, record, wait };
  struct Command {
    SimDuration runs_for{};
    std::uint32_t event{};  ///< record, wait
    std::uint32_t label{};  ///< work
    CommandKind kind{};
    WorkKind work{};
  };
  struct Stream {
    std::deque<Command> commands{};  ///< the front one is the one that runs or waits
    std::int64_t pending_work{};     ///< work commands not yet ended
    SimTime began{};                 ///< of the running work
    bool blocked{};  ///< the front command runs, or waits for the units or for an event
  };
  /// References are: the holder's (until forget()) and one per command that names the event.
  struct Event {
    std::int32_t references{};
    bool done{};
    SimTime at{};                          ///< when it was done
    std::vector<std::uint32_t> waiting{};  ///< streams blocked on it, in order of arrival
  };
  struct Entry {
    EventKey key{};
    std::uint32_t stream{};
    friend constexpr bool operator>(const Entry& a, const Entry& b) { return a.key > b.key; }
  };

  void pass(SimTime until, HostActivity activity);
  void elapse(SimTime until, HostActivity activity);
  void complete(std::uint32_t stream);
  void advance_stream(std::uint32_t stream);
  void begin_work(std::uint32_t stream);
  template <class Done>
  void wait_until(const Done& done);
  [[nodiscard]] std::uint32_t new_event();
  void release(std::uint32_t event);

  TimedStreamsOptions options_;
  std::vector<Stream> streams_;
  Slots<Event> events_;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue_;
  std::deque<std::uint32_t> units_queue_;  ///< streams whose front kernel waits for the units
  std::uint64_t sequence_{};
  SimTime host_now_{};
  SimTime device_now_{};  ///< the device is simulated up to here, never behind an answer
  std::int64_t collectives_running_{};
  bool kernel_running_{};
  TimeSplit split_{};
  SimDuration kernel_time_{};
  SimDuration collective_time_{};
  WorkSink* sink_{};
};

}  // namespace peakcast
