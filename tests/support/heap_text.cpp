#include "tests/support/heap_text.hpp"

#include <utility>

#include "sim/core/check.hpp"

namespace peakcast::support {
namespace {

// 64 GiB of room for each of 256 segments of each device, 2 TiB for each of 32 reservations.
constexpr std::uint64_t kSegments = std::uint64_t{1} << 43;
constexpr std::uint64_t kSegmentRoom = std::uint64_t{1} << 36;
constexpr std::uint64_t kPerDevice = std::uint64_t{1} << 44;
constexpr std::uint64_t kReservations = std::uint64_t{1} << 46;
constexpr std::uint64_t kReservationRoom = std::uint64_t{1} << 41;

}  // namespace

std::optional<Address> NamedAddresses::acquire(Bytes size) {
  check(static_cast<std::uint64_t>(size.count()) <= kSegmentRoom, "a segment beyond its room");
  check(acquired_ < kPerDevice / kSegmentRoom, "too many segments for readable addresses");
  return Address{kSegments + device_ * kPerDevice + acquired_++ * kSegmentRoom};
}

void NamedAddresses::release(Address /*address*/, Bytes /*size*/) {}

std::optional<Address> NamedAddresses::reserve(Bytes size) {
  check(static_cast<std::uint64_t>(size.count()) <= kReservationRoom, "a reservation too large");
  check(reserved_ < 32, "too many reservations for readable addresses");
  return Address{kReservations + reserved_++ * kReservationRoom};
}

void NamedAddresses::unreserve(Address /*address*/, Bytes /*size*/) {}

std::string NamedAddresses::name(Address address) {
  const std::uint64_t at = address.value();
  const bool reservation = at >= kReservations;
  const std::uint64_t from = reservation ? kReservations : kSegments;
  const std::uint64_t room = reservation ? kReservationRoom : kSegmentRoom;
  if (at < from) {
    return std::to_string(at);
  }
  const std::uint64_t beyond = (at - from) % room;
  return (reservation ? "R" : "S") + std::to_string((at - from) / room) +
         (beyond == 0 ? "" : "+" + short_size(Bytes{static_cast<std::int64_t>(beyond)}));
}

std::string short_size(Bytes size) {
  constexpr std::int64_t kMiB = 1 << 20;
  const std::int64_t count = size.count();
  if (count == 0 || count % (kMiB / 2) != 0) {
    return std::to_string(count);
  }
  return std::to_string(count / kMiB) + (count % kMiB == 0 ? "M" : ".5M");
}

std::string heap_text(const HeapView& heap) {
  std::string text;
  for (const SegmentView& segment : heap.segments) {
    text += (text.empty() ? "" : "\n") + NamedAddresses::name(segment.address) + ": ";
    for (const BlockView& block : segment.blocks) {
      text += "[" + short_size(block.size);
      switch (block.state) {
        case BlockState::free:
          text += " -";
          break;
        case BlockState::pending:
          text += " P";
          break;
        case BlockState::allocated:
          text += " A";
          if (block.requested != block.size) {
            text += " " + short_size(block.requested);
          }
          break;
      }
      text += "]";
    }
  }
  return text;
}

std::string event_text(const AllocatorEvent& event) {
  if (event.action == Action::oom) {
    return "oom " + short_size(event.size) + " (" +
           short_size(Bytes{static_cast<std::int64_t>(event.address.value())}) + " free)";
  }
  return std::string{to_string(event.action)} + " " + NamedAddresses::name(event.address) + " " +
         short_size(event.size);
}

std::string EventLog::take_text() {
  std::string text;
  for (const AllocatorEvent& event : std::exchange(events_, {})) {
    text += (text.empty() ? "" : "; ") + event_text(event);
  }
  return text;
}

}  // namespace peakcast::support
