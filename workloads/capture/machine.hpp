#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sim/device/address_source.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/engine/cost_model.hpp"
#include "sim/engine/timed_streams.hpp"
#include "workloads/capture/log_writer.hpp"
#include "workloads/capture/settings.hpp"

/// The emulated machine: cards whose memory is a SimulatedDevice and whose time is a TimedStreams.
namespace peakcast::capture {

/// What a stream's handle is to CUDA.
using StreamHandle = void*;

/// Device work that was issued while its stream was being captured in a CUDA graph.
struct Graph {
  std::uint64_t id{};
  SimDuration runs_for{};  ///< of all of it, one after the other
  std::size_t nodes{};
};

struct Stream {
  int card{};
  StreamId id{};
  int priority{};
  std::shared_ptr<Graph> capturing{};  ///< null: not captured
  bool began_capture{};                ///< the capture began on this stream
  bool destroyed{};
};

struct Event {
  std::uint32_t number{};  ///< in the log
  int card{};
  std::optional<EventId> id{};  ///< of the card's clock; none before the first record
  std::shared_ptr<Graph> capturing{};
  bool timing{true};
};

/// One card.
class Card {
 public:
  Card(const Settings& settings, int ordinal);
  Card(const Card&) = delete;
  Card& operator=(const Card&) = delete;

  [[nodiscard]] std::optional<Address> allocate(Bytes size);
  void free(Address address);
  [[nodiscard]] std::optional<Address> pool_allocate(Bytes size, StreamId stream);
  void pool_free(Address address, StreamId stream);
  [[nodiscard]] std::optional<Address> reserve(Bytes size);
  void unreserve(Address address, Bytes size);
  /// What a library takes beside every allocator; false when the card is full.
  [[nodiscard]] bool take(Bytes size) { return memory.take(size); }

  int ordinal;
  TimedStreams clock;
  ModelledAddresses addresses;
  SimulatedDevice memory;
  SimDuration driver_time{};  ///< of `memory`, as far as the clock has passed it

 private:
  [[nodiscard]] Address pool_shift(Address address) const;
  std::unordered_map<std::uint64_t, Bytes> sizes_{};       // of allocate(); never iterated
  std::unordered_map<std::uint64_t, Bytes> pool_sizes_{};  // never iterated
  std::uint64_t pool_backed_{};                            // of the pool's range, from its base on
};

/// Everything of this process. Never destroyed: tensors are freed after static destructors have
/// run. All but `current_card` needs `mutex`.
struct Machine {
  Machine();
  std::mutex mutex{};
  Settings settings;
  std::vector<std::unique_ptr<Card>> cards{};
  LogWriter log;
  std::vector<Stream> streams{};  ///< by number
  std::uint32_t events{};
  std::uint64_t captures{};
  std::unordered_map<const void*, std::string> kernels{};  ///< by the host's function
  std::map<std::uint64_t, std::size_t> pinned{};           ///< host memory: start -> size
  std::string last_kernel{};                               ///< mangled name of the last launch

  [[nodiscard]] Card& current();
  /// Null: no such stream.
  [[nodiscard]] Stream* find(StreamHandle handle);
  [[nodiscard]] StreamHandle make_stream(int priority);

  /// Work of `runs_for` on `stream`; `threads` is told in the log.
  void launch(Stream& stream, StreamHandle handle, std::string_view name, SimDuration runs_for,
              std::uint64_t threads, RecordKind kind = RecordKind::launch);
  /// `allocator_site`: where in the library of PyTorch's allocator the call is; null: elsewhere.
  void record(Event& event, Stream& stream, StreamHandle handle, const void* allocator_site);
  void wait(Stream& stream, StreamHandle handle, Event& event);
  void host_wait(Event& event);
  void synchronize(Stream& stream, StreamHandle handle);
  void synchronize_card();
  void host_work(SimDuration duration, int card);
  /// One call of PyTorch's allocator.
  void allocator_call(Card& card);
};

[[nodiscard]] Machine& machine();
/// The calling thread's card.
[[nodiscard]] int& current_card();
/// Whether an address is an emulated card's, and whose; -1: none.
[[nodiscard]] int card_of(const void* address);
/// Whether PyTorch's allocator is what calls: `caller` is a return address.
[[nodiscard]] bool is_pytorch_allocator(const void* caller);

}  // namespace peakcast::capture
