// NCCL: one rank's side of a job. The partners may be processes of their own or exist only in name;
// either way nothing is exchanged here, and the answer is an equal partner's: it sent what this
// rank would have sent. That is right for what all ranks agree on (shapes, counts, checks) and for
// tensors it makes no difference, as no bytes are computed.
#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "sim/engine/cost_model.hpp"
#include "workloads/capture/cuda_types.hpp"
#include "workloads/capture/machine.hpp"
#include "workloads/capture/stub.hpp"
#include "workloads/capture/values_hooks.hpp"

namespace peakcast::capture {
namespace {

// ncclResult_t.
constexpr int kOk = 0;
constexpr int kInvalidArgument = 4;
// ncclRedOp_t.
constexpr int kSum = 0;
// NCCL_SPLIT_NOCOLOR.
constexpr int kNoColor = -1;

constexpr int kVersion = 22809;  // 2.28.9, which PyTorch 2.11's wheel asks for

struct UniqueId {
  std::array<char, 128> bytes;
};

struct Communicator {
  int ranks{1};
  int rank{};
  int card{};
};

constexpr std::int64_t bytes_of(int type) {
  constexpr std::array<std::int64_t, 12> kBytes{1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
  return type >= 0 && type < static_cast<int>(kBytes.size())
             ? kBytes[static_cast<std::size_t>(type)]
             : 4;
}

bool is_integer(int type) { return type >= 0 && type <= 5; }

/// What this thread sent to itself and to others since its group began: what it receives in turn.
struct Sent {
  const void* from{};
  std::int64_t bytes{};
  int peer{};
};
struct Received {
  void* to{};
  std::int64_t bytes{};
  int peer{};
  const Communicator* communicator{};
};
struct Group {
  int depth{};
  std::vector<Sent> sent{};
  std::vector<Received> received{};
};
thread_local Group group;

/// What the equal partners' sum of integers is, for sums whose terms are known.
void multiply(void* at, std::int64_t count, int type, std::int64_t factor) {
  const std::int64_t size = bytes_of(type);
  auto* bytes = static_cast<char*>(at);
  for (std::int64_t i = 0; i < count; ++i, bytes += size) {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes, static_cast<std::size_t>(size));
    value *= static_cast<std::uint64_t>(factor);
    std::memcpy(bytes, &value, static_cast<std::size_t>(size));
  }
}

void copy_values(void* to, const void* from, std::int64_t bytes) {
  if (to != from) {
    values_copied_on_card(to, from, static_cast<std::size_t>(bytes));
  }
}

/// Reduces: the same on every rank.
void reduce_values(void* to, const void* from, std::int64_t count, int type, int operation,
                   int ranks) {
  const std::int64_t bytes = count * bytes_of(type);
  copy_values(to, from, bytes);
  if (!values_known(to, static_cast<std::size_t>(bytes))) {
    return;
  }
  if (operation == kSum && ranks > 1) {
    if (is_integer(type)) {
      multiply(to, count, type, ranks);
    } else {
      values_forgotten(to, static_cast<std::size_t>(bytes));
    }
  }
}

/// `bytes` as CollectiveWork counts them.
int run(const Communicator* communicator, StreamHandle handle, std::string_view name,
        Collective kind, std::int64_t bytes) {
  Stream* const stream = machine().find(handle);
  if (communicator == nullptr || stream == nullptr) {
    return kInvalidArgument;
  }
  machine().launch(
      *stream, handle, name,
      collective_time(machine().settings.gpu,
                      {.kind = kind, .bytes = Bytes{bytes}, .ranks = communicator->ranks}),
      static_cast<std::uint64_t>(bytes), RecordKind::collective);
  return kOk;
}

int make_communicator(Communicator** out, int ranks, int rank) {
  if (ranks < 1 || rank < 0 || rank >= ranks) {
    return kInvalidArgument;
  }
  *out = new Communicator{.ranks = ranks, .rank = rank, .card = current_card()};
  return kOk;
}

/// What a peer sends: what was sent to it; to itself, that. In a group of point-to-point calls the
/// message for rank r of an equal peer is the one that this rank sends to its own number.
void settle_group() {
  const std::lock_guard lock{machine().mutex};
  for (const Received& received : group.received) {
    const Sent* match = nullptr;
    for (const Sent& sent : group.sent) {
      const bool to_me = sent.peer == received.communicator->rank;
      if (sent.bytes == received.bytes && (match == nullptr || to_me)) {
        match = &sent;
      }
    }
    if (match != nullptr) {
      copy_values(received.to, match->from, received.bytes);
    } else {
      values_forgotten(received.to, static_cast<std::size_t>(received.bytes));
    }
  }
  group.sent.clear();
  group.received.clear();
}

}  // namespace
}  // namespace peakcast::capture

using namespace peakcast::capture;
using peakcast::Collective;

#define PEAKCAST_NCCL(name) PEAKCAST_EXPORT int nccl##name

PEAKCAST_NCCL(GetVersion)(int* version) {
  *version = kVersion;
  return kOk;
}
PEAKCAST_NCCL(GetUniqueId)(UniqueId* id) {
  id->bytes.fill(1);
  return kOk;
}
PEAKCAST_NCCL(CommInitRank)(Communicator** out, int ranks, UniqueId /*id*/, int rank) {
  return make_communicator(out, ranks, rank);
}
PEAKCAST_NCCL(CommInitRankConfig)
(Communicator** out, int ranks, UniqueId /*id*/, int rank, void* /*config*/) {
  return make_communicator(out, ranks, rank);
}
PEAKCAST_NCCL(CommInitRankScalable)
(Communicator** out, int ranks, int rank, int /*count*/, UniqueId* /*ids*/, void* /*config*/) {
  return make_communicator(out, ranks, rank);
}
PEAKCAST_NCCL(CommInitAll)(Communicator** out, int cards, const int* which) {
  for (int i = 0; i < cards; ++i) {
    out[i] = new Communicator{.ranks = cards, .rank = i, .card = which != nullptr ? which[i] : i};
  }
  return kOk;
}
/// Which ranks share a colour is the partners' knowledge: PyTorch splits only into groups that
/// stand in its own books, and asks for their sizes nowhere else.
PEAKCAST_NCCL(CommSplit)
(const Communicator* parent, int color, int key, Communicator** out, void* /*config*/) {
  *out = color == kNoColor
             ? nullptr
             : new Communicator{.ranks = parent->ranks, .rank = key, .card = parent->card};
  return kOk;
}
PEAKCAST_NCCL(CommShrink)
(const Communicator* parent, const int* excluded, int count, Communicator** out, void* /*config*/,
 int /*flags*/) {
  int before = 0;
  for (int i = 0; i < count; ++i) {
    before += excluded[i] < parent->rank ? 1 : 0;
  }
  return make_communicator(out, parent->ranks - count, parent->rank - before);
}
PEAKCAST_NCCL(CommCount)(const Communicator* communicator, int* count) {
  *count = communicator->ranks;
  return kOk;
}
PEAKCAST_NCCL(CommUserRank)(const Communicator* communicator, int* rank) {
  *rank = communicator->rank;
  return kOk;
}
PEAKCAST_NCCL(CommCuDevice)(const Communicator* communicator, int* card) {
  *card = communicator->card;
  return kOk;
}
PEAKCAST_NCCL(CommDestroy)(Communicator* communicator) {
  delete communicator;
  return kOk;
}
PEAKCAST_NCCL(CommAbort)(Communicator* communicator) {
  delete communicator;
  return kOk;
}
PEAKCAST_NCCL(CommGetAsyncError)(const Communicator* /*communicator*/, int* error) {
  *error = kOk;
  return kOk;
}
PEAKCAST_NCCL(GroupStart)() {
  ++group.depth;
  return kOk;
}
PEAKCAST_NCCL(GroupEnd)() {
  if (--group.depth <= 0) {
    group.depth = 0;
    settle_group();
  }
  return kOk;
}

PEAKCAST_NCCL(AllReduce)
(const void* from, void* to, std::size_t count, int type, int operation,
 const Communicator* communicator, StreamHandle stream) {
  const std::lock_guard lock{machine().mutex};
  const auto elements = static_cast<std::int64_t>(count);
  const int error =
      run(communicator, stream, "ncclAllReduce", Collective::all_reduce, elements * bytes_of(type));
  if (error == kOk) {
    reduce_values(to, from, elements, type, operation, communicator->ranks);
  }
  return error;
}
PEAKCAST_NCCL(Reduce)
(const void* from, void* to, std::size_t count, int type, int operation, int root,
 const Communicator* communicator, StreamHandle stream) {
  const std::lock_guard lock{machine().mutex};
  const auto elements = static_cast<std::int64_t>(count);
  const int error =
      run(communicator, stream, "ncclReduce", Collective::broadcast, elements * bytes_of(type));
  if (error == kOk && communicator->rank == root) {
    reduce_values(to, from, elements, type, operation, communicator->ranks);
  }
  return error;
}
PEAKCAST_NCCL(Broadcast)
(const void* from, void* to, std::size_t count, int type, int /*root*/,
 const Communicator* communicator, StreamHandle stream) {
  const std::lock_guard lock{machine().mutex};
  const std::int64_t bytes = static_cast<std::int64_t>(count) * bytes_of(type);
  const int error = run(communicator, stream, "ncclBroadcast", Collective::broadcast, bytes);
  if (error == kOk && from != nullptr) {
    copy_values(to, from, bytes);
  }
  return error;
}
PEAKCAST_NCCL(Bcast)
(void* buffer, std::size_t count, int type, int root, const Communicator* communicator,
 StreamHandle stream) {
  return ncclBroadcast(buffer, buffer, count, type, root, communicator, stream);
}
PEAKCAST_NCCL(AllGather)
(const void* from, void* to, std::size_t count, int type, const Communicator* communicator,
 StreamHandle stream) {
  const std::lock_guard lock{machine().mutex};
  const std::int64_t bytes = static_cast<std::int64_t>(count) * bytes_of(type);
  const int ranks = communicator != nullptr ? communicator->ranks : 1;
  const int error =
      run(communicator, stream, "ncclAllGather", Collective::all_gather, bytes * ranks);
  for (int rank = 0; error == kOk && rank < ranks; ++rank) {
    copy_values(static_cast<char*>(to) + rank * bytes, from, bytes);
  }
  return error;
}
PEAKCAST_NCCL(ReduceScatter)
(const void* from, void* to, std::size_t count, int type, int operation,
 const Communicator* communicator, StreamHandle stream) {
  const std::lock_guard lock{machine().mutex};
  const auto elements = static_cast<std::int64_t>(count);
  const std::int64_t bytes = elements * bytes_of(type);
  const int ranks = communicator != nullptr ? communicator->ranks : 1;
  const int error =
      run(communicator, stream, "ncclReduceScatter", Collective::reduce_scatter, bytes * ranks);
  if (error == kOk) {
    reduce_values(to, static_cast<const char*>(from) + communicator->rank * bytes, elements, type,
                  operation, ranks);
  }
  return error;
}
/// Slot r of an equal partner's message to this rank is this rank's own slot for itself.
PEAKCAST_NCCL(AlltoAll)
(const void* from, void* to, std::size_t count, int type, const Communicator* communicator,
 StreamHandle stream) {
  const std::lock_guard lock{machine().mutex};
  const std::int64_t bytes = static_cast<std::int64_t>(count) * bytes_of(type);
  const int ranks = communicator != nullptr ? communicator->ranks : 1;
  const int error =
      run(communicator, stream, "ncclAlltoAll", Collective::all_gather, bytes * ranks);
  for (int rank = 0; error == kOk && rank < ranks; ++rank) {
    copy_values(static_cast<char*>(to) + rank * bytes,
                static_cast<const char*>(from) + communicator->rank * bytes, bytes);
  }
  return error;
}
PEAKCAST_NCCL(Gather)
(const void* from, void* to, std::size_t count, int type, int root,
 const Communicator* communicator, StreamHandle stream) {
  return communicator != nullptr && communicator->rank == root
             ? ncclAllGather(from, to, count, type, communicator, stream)
             : kOk;
}
PEAKCAST_NCCL(Scatter)
(const void* from, void* to, std::size_t count, int type, int root,
 const Communicator* communicator, StreamHandle stream) {
  const std::lock_guard lock{machine().mutex};
  const std::int64_t bytes = static_cast<std::int64_t>(count) * bytes_of(type);
  const int error = run(communicator, stream, "ncclScatter", Collective::broadcast, bytes);
  if (error == kOk && communicator->rank == root) {
    copy_values(to, static_cast<const char*>(from) + communicator->rank * bytes, bytes);
  } else if (error == kOk) {
    values_forgotten(to, static_cast<std::size_t>(bytes));
  }
  return error;
}
PEAKCAST_NCCL(Send)
(const void* from, std::size_t count, int type, int peer, const Communicator* communicator,
 StreamHandle stream) {
  const std::int64_t bytes = static_cast<std::int64_t>(count) * bytes_of(type);
  group.sent.push_back({.from = from, .bytes = bytes, .peer = peer});
  const std::lock_guard lock{machine().mutex};
  return run(communicator, stream, "ncclSend", Collective::broadcast, bytes);
}
PEAKCAST_NCCL(Recv)
(void* to, std::size_t count, int type, int peer, const Communicator* communicator,
 StreamHandle stream) {
  const std::int64_t bytes = static_cast<std::int64_t>(count) * bytes_of(type);
  int error = kOk;
  {
    const std::lock_guard lock{machine().mutex};
    error = run(communicator, stream, "ncclRecv", Collective::broadcast, bytes);
  }
  if (error == kOk) {
    group.received.push_back(
        {.to = to, .bytes = bytes, .peer = peer, .communicator = communicator});
    if (group.depth == 0) {
      settle_group();
    }
  }
  return error;
}

PEAKCAST_NCCL(MemAlloc)(void** out, std::size_t size) {
  const std::lock_guard lock{machine().mutex};
  const auto address =
      machine().current().allocate(peakcast::Bytes{static_cast<std::int64_t>(size)});
  *out = address ? reinterpret_cast<void*>(address->value()) : nullptr;
  return address ? kOk : 1;
}
PEAKCAST_NCCL(MemFree)(void* pointer) {
  const std::lock_guard lock{machine().mutex};
  if (pointer != nullptr && card_of(pointer) >= 0) {
    machine().current().free(peakcast::Address{reinterpret_cast<std::uint64_t>(pointer)});
  }
  return kOk;
}
PEAKCAST_NCCL(RedOpCreatePreMulSum)
(int* operation, void* /*scalar*/, int /*type*/, int /*where*/,
 const Communicator* /*communicator*/) {
  *operation = 5;  // the first number that is none of NCCL's own
  return kOk;
}
