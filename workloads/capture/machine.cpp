#include "workloads/capture/machine.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sim/core/check.hpp"

namespace peakcast::capture {
namespace {

using namespace literals;

constexpr std::uint64_t kPage = std::uint64_t{2} << 20;
/// Addresses of the cards, in a part of a 47-bit address space that neither the loader nor mmap
/// goes to by itself: mmap grows down from the stack, programs lie at 0x55.... What cudaMalloc
/// gives ends below kTop, half way between two multiples of a chunk's unit as ModelledAddresses has
/// it; reservations ascend from kReservations and the pool lies from kPool on.
constexpr std::uint64_t kTop = 0x500000000000 - (std::uint64_t{16} << 20);
constexpr std::uint64_t kTopStep = std::uint64_t{1} << 41;
constexpr std::uint64_t kLowest = 0x200000000000;
constexpr std::uint64_t kReservations = 0x302000000;
constexpr std::uint64_t kReservationsStep = std::uint64_t{1} << 41;
constexpr std::uint64_t kPoolBase = 0x1302000000;  // StreamOrderedPool's own
constexpr std::uint64_t kPool = 0x10000000000;     // here, from there
constexpr std::uint64_t kPoolGrowth = std::uint64_t{1} << 34;
/// Handles of streams: numbers no pointer has.
constexpr std::uint64_t kStreamBase = 0x7000;
constexpr std::uint64_t kStreamStep = 0x10;

/// What the host takes to issue a kernel, on the program's own thread and on autograd's, with all
/// that PyTorch and Python do around it. Source: CardCosts::host (workloads/card_costs.hpp), an
/// operator; a forward pass calls a module for each of them or so.
constexpr std::array<SimDuration, 2> kHostLaunch{SimDuration{45'000}, SimDuration{34'000}};
/// As TimedReplay has it, so that a replay of the trace takes the same time.
constexpr SimDuration kAllocatorCall{450};

bool on_first_thread() { return gettid() == getpid(); }

constexpr std::uint64_t up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

/// The memory that the host may touch where the card has some: none of it is there until touched.
void back(std::uint64_t start, std::uint64_t size) {
  void* const wanted = reinterpret_cast<void*>(start);
  void* const got = mmap(wanted, size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (got != wanted) {
    std::fprintf(stderr, "peakcast capture: this process has no room at %p for a card's memory\n",
                 wanted);
    std::_Exit(2);
  }
  madvise(got, size, MADV_NOHUGEPAGE);
  madvise(got, size, MADV_DONTDUMP);
}

/// The memory outside PyTorch's allocator that any process takes: context and kernels.
Bytes outside_of(const GpuDescription& gpu) {
  Bytes sum;
  for (const OutsideItem& item : outside_items(gpu, {})) {
    sum += item.size;
  }
  return std::min(sum, gpu.spec.total);
}

void before_fork() { machine().mutex.lock(); }
void after_fork_parent() { machine().mutex.unlock(); }
void after_fork_child() {
  machine().log.forked();
  machine().mutex.unlock();
}

}  // namespace

Card::Card(const Settings& settings, int number)
    : ordinal{number},
      clock{{.streams = 1}},
      addresses{Address{kTop - static_cast<std::uint64_t>(number) * kTopStep},
                Address{kReservations + static_cast<std::uint64_t>(number) * kReservationsStep}},
      memory{{.spec = settings.gpu.spec,
              .outside = outside_of(settings.gpu),
              .kept = settings.gpu.kept(),
              .shared_page_limit = settings.gpu.shared_page_limit,
              .costs = &settings.gpu.driver_costs,
              .addresses = &addresses,
              .streams = &clock}} {}

std::optional<Address> Card::allocate(Bytes size) {
  const std::optional<Address> address = memory.acquire(size);
  if (address) {
    const std::uint64_t start = address->value() / kPage * kPage;
    const std::uint64_t end =
        up(address->value() + static_cast<std::uint64_t>(size.count()), kPage);
    // Small ones share a page, which stays when it was once backed.
    if (size > 1_MiB) {
      back(start, end - start);
    } else {
      mmap(reinterpret_cast<void*>(start), kPage, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    }
    sizes_[address->value()] = size;
  }
  return address;
}

void Card::free(Address address) {
  const auto found = sizes_.find(address.value());
  if (found == sizes_.end()) {
    return;  // cudaFree of what was never given: cudaErrorInvalidValue's business
  }
  if (found->second > 1_MiB) {
    munmap(reinterpret_cast<void*>(address.value()),
           up(static_cast<std::uint64_t>(found->second.count()), kPage));
  }
  sizes_.erase(found);
  memory.release(address);
}

Address Card::pool_shift(Address address) const {
  return Address{address.value() - kPoolBase + kPool +
                 static_cast<std::uint64_t>(ordinal) * kReservationsStep};
}

std::optional<Address> Card::pool_allocate(Bytes size, StreamId stream) {
  const std::optional<Address> address = memory.pool_allocate(size, stream);
  if (!address) {
    return std::nullopt;
  }
  const std::uint64_t end = address->value() - kPoolBase + static_cast<std::uint64_t>(size.count());
  if (end > pool_backed_) {
    const std::uint64_t more = up(end - pool_backed_, kPoolGrowth);
    back(pool_shift(Address{kPoolBase}).value() + pool_backed_, more);
    pool_backed_ += more;
  }
  const Address shifted = pool_shift(*address);
  pool_sizes_[shifted.value()] = size;
  return shifted;
}

void Card::pool_free(Address address, StreamId stream) {
  if (pool_sizes_.erase(address.value()) != 0) {
    memory.pool_free(Address{address.value() - pool_shift(Address{kPoolBase}).value() + kPoolBase},
                     stream);
  }
}

std::optional<Address> Card::reserve(Bytes size) {
  const std::optional<Address> address = memory.reserve(size);
  if (address) {
    back(address->value(), static_cast<std::uint64_t>(size.count()));
  }
  return address;
}

void Card::unreserve(Address address, Bytes size) {
  munmap(reinterpret_cast<void*>(address.value()), static_cast<std::size_t>(size.count()));
  memory.unreserve(address, size);
}

Machine::Machine()
    : settings{settings_from_environment()},
      log{settings.directory, settings.gpu.spec.total.count()} {
  for (int i = 0; i < settings.cards; ++i) {
    cards.push_back(std::make_unique<Card>(settings, i));
    streams.push_back({.card = i, .id = StreamId{0}});  // the default stream of card i is stream i
  }
  pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

Machine& machine() {
  static Machine* const instance = new Machine;
  return *instance;
}

int& current_card() {
  thread_local int card = 0;
  return card;
}

int card_of(const void* pointer) {
  const auto address = reinterpret_cast<std::uint64_t>(pointer);
  const auto cards = static_cast<std::uint64_t>(machine().settings.cards);
  if (address >= kLowest && address < kTop) {
    const std::uint64_t card = (kTop - 1 - address) / kTopStep;
    return card < cards ? static_cast<int>(card) : -1;
  }
  if (address >= kReservations && address < kReservations + cards * kReservationsStep) {
    return static_cast<int>((address - kReservations) / kReservationsStep);
  }
  return -1;
}

bool is_pytorch_allocator(const void* caller) {
  static std::atomic<std::uintptr_t> begin{0};
  static std::atomic<std::uintptr_t> end{0};
  const auto address = reinterpret_cast<std::uintptr_t>(caller);
  if (end.load(std::memory_order_acquire) != 0) {
    return address >= begin.load() && address < end.load();
  }
  Dl_info info{};
  if (dladdr(caller, &info) == 0 || info.dli_fname == nullptr ||
      std::strstr(info.dli_fname, "libc10_cuda.so") == nullptr) {
    return false;
  }
  // Its code is one mapping of at most some MiB behind its base.
  begin = reinterpret_cast<std::uintptr_t>(info.dli_fbase);
  constexpr std::uintptr_t kCode = std::uintptr_t{1} << 19;
  end.store(begin.load() + kCode, std::memory_order_release);
  return true;
}

Card& Machine::current() { return *cards[static_cast<std::size_t>(current_card())]; }

Stream* Machine::find(StreamHandle handle) {
  const auto value = reinterpret_cast<std::uint64_t>(handle);
  if (value <= 2) {  // the default stream, cudaStreamLegacy, cudaStreamPerThread
    return &streams[static_cast<std::size_t>(current_card())];
  }
  const std::uint64_t number = (value - kStreamBase) / kStreamStep;
  if (value < kStreamBase || number >= streams.size() || streams[number].destroyed) {
    return nullptr;
  }
  return &streams[number];
}

StreamHandle Machine::make_stream(int priority) {
  Card& card = current();
  streams.push_back({.card = card.ordinal, .id = card.clock.add_stream(), .priority = priority});
  return reinterpret_cast<StreamHandle>(kStreamBase + (streams.size() - 1) * kStreamStep);
}

void Machine::launch(Stream& stream, StreamHandle handle, std::string_view name,
                     SimDuration runs_for, std::uint64_t threads, RecordKind kind) {
  last_kernel = name;
  if (stream.capturing != nullptr) {
    stream.capturing->runs_for += runs_for;
    ++stream.capturing->nodes;
    return;
  }
  host_work(kHostLaunch[on_first_thread() ? 0 : 1], stream.card);
  log.write({.address = threads,
             .value = runs_for.count(),
             .stream = reinterpret_cast<std::uint64_t>(handle),
             .id = log.string(name),
             .kind = kind,
             .device = static_cast<std::uint8_t>(stream.card)});
  cards[static_cast<std::size_t>(stream.card)]->clock.launch(
      stream.id, kind == RecordKind::collective ? WorkKind::collective : WorkKind::kernel,
      runs_for);
}

void Machine::record(Event& event, Stream& stream, StreamHandle handle,
                     const void* allocator_site) {
  if (stream.capturing != nullptr) {
    event.capturing = stream.capturing;
    return;
  }
  event.capturing.reset();
  if (event.id) {
    cards[static_cast<std::size_t>(event.card)]->clock.forget(*event.id);
  }
  event.card = stream.card;
  event.id = cards[static_cast<std::size_t>(stream.card)]->clock.record(stream.id);
  log.write({.address = reinterpret_cast<std::uint64_t>(allocator_site),
             .stream = reinterpret_cast<std::uint64_t>(handle),
             .id = event.number,
             .kind = RecordKind::record_event,
             .flags = allocator_site != nullptr ? kByAllocator : std::uint8_t{},
             .device = static_cast<std::uint8_t>(stream.card)});
}

void Machine::wait(Stream& stream, StreamHandle handle, Event& event) {
  if (event.capturing != nullptr) {
    stream.capturing = event.capturing;  // the stream joins the capture
    return;
  }
  if (!event.id || event.card != stream.card || stream.capturing != nullptr) {
    return;  // an event that was never recorded holds nobody; cards' clocks are apart
  }
  log.write({.stream = reinterpret_cast<std::uint64_t>(handle),
             .id = event.number,
             .kind = RecordKind::wait_event,
             .device = static_cast<std::uint8_t>(stream.card)});
  cards[static_cast<std::size_t>(stream.card)]->clock.wait_event(stream.id, *event.id);
}

void Machine::host_wait(Event& event) {
  if (!event.id) {
    return;
  }
  Card& card = *cards[static_cast<std::size_t>(event.card)];
  log.write({.id = event.number,
             .kind = RecordKind::host_wait,
             .device = static_cast<std::uint8_t>(event.card)});
  card.clock.wait(*event.id);
  card.memory.synchronized();
}

void Machine::synchronize(Stream& stream, StreamHandle handle) {
  Card& card = *cards[static_cast<std::size_t>(stream.card)];
  log.write({.stream = reinterpret_cast<std::uint64_t>(handle),
             .kind = RecordKind::synchronize,
             .device = static_cast<std::uint8_t>(stream.card)});
  card.clock.synchronize(stream.id);
  card.memory.synchronized();
}

void Machine::synchronize_card() {
  Card& card = current();
  log.write({.kind = RecordKind::synchronize,
             .flags = kWholeDevice,
             .device = static_cast<std::uint8_t>(card.ordinal)});
  card.clock.synchronize_device();
  card.memory.synchronized();
}

void Machine::host_work(SimDuration duration, int number) {
  log.write({.value = duration.count(),
             .kind = RecordKind::host_work,
             .device = static_cast<std::uint8_t>(number)});
  cards[static_cast<std::size_t>(number)]->clock.spend(duration, HostActivity::program);
}

void Machine::allocator_call(Card& card) {
  const SimDuration now = card.memory.host_time();
  card.clock.spend(kAllocatorCall + (now - card.driver_time), HostActivity::allocator);
  card.driver_time = now;
}

}  // namespace peakcast::capture
