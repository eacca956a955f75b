#pragma once

#include <cstdint>

namespace peakcast::capture {

/// A process's log: what PyTorch's allocator and the emulated card saw, in order. A file
/// `PID.log` in the capture's directory: kLogMagic, then records of 32 bytes until one of kind
/// `none` (the file is longer than what was written). Native byte order: it is read on the machine
/// that wrote it. The library writes it through a shared mapping, so that a process that is killed
/// leaves all that it did.
inline constexpr std::uint64_t kLogMagic = 0x0031474f4c43504bULL;  // "KPCLOG1"

enum class RecordKind : std::uint8_t {
  none,
  text,             ///< `value` bytes follow, in as many records as they fill: string `id`
  framework,        ///< string `id`: PyTorch's version
  allocator_event,  ///< `flags` is an Action; address, value: size, stream, id: the emulated
                    ///< host's time in us, its low 32 bits
  driver_allocate,  ///< cudaMallocAsync, or cudaMalloc by another than PyTorch: address, value:
                    ///< size
  driver_free,      ///< its end
  launch,           ///< string `id`; value: ns on the card, address: threads
  collective,       ///< the same
  copy,             ///< string `id`; value: ns, address: bytes
  record_event,     ///< event `id` on `stream`; flags: kByAllocator, then address: the call's place
  wait_event,       ///< `stream` waits for event `id`
  host_wait,        ///< the host waits for event `id`
  synchronize,      ///< the host waits for `stream`; flags: kWholeDevice
  host_work,        ///< value: ns
  mark,             ///< string `id`; flags is a MarkKind
  category,         ///< the buffer at `address` holds flags, a Category
  stub,             ///< string `id` names a stub that was reached
  assumed,          ///< string `id`: "site\tquestion\tanswer"
  out_of_memory,    ///< string `id`: where the program ran out
  kernel_unknown,   ///< string `id`: a kernel that the cost model does not know; value: ns
};

/// From the library of PyTorch's allocator. Its guards, in the same library, record events too.
inline constexpr std::uint8_t kByAllocator = 1;
inline constexpr std::uint8_t kWholeDevice = 1;

struct Record {
  std::uint64_t address{};
  std::int64_t value{};
  std::uint64_t stream{};
  std::uint32_t id{};
  RecordKind kind{};
  std::uint8_t flags{};
  std::uint8_t device{};
  std::uint8_t thread{};  ///< 0 for the first that did anything, and so on
};
static_assert(sizeof(Record) == 32);

/// What the log begins with.
struct LogHead {
  std::uint64_t magic{kLogMagic};
  std::int64_t process{};
  std::int64_t rank{-1};  ///< of the environment's RANK; -1: none
  std::int64_t total{};   ///< the card's memory
};
static_assert(sizeof(LogHead) == 32);

}  // namespace peakcast::capture
