#include "sim/app/host_memory.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <unordered_map>

#include <fmt/format.h>

#include "sim/app/command.hpp"
#include "sim/app/prediction.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"
#include "workloads/host_tensors.hpp"

namespace peakcast::app {
namespace {

using namespace literals;

constexpr Bytes kPage = 4_KiB;

// Measured: H200, driver 580, PyTorch 2.11.0+cu130, Python 3.12, 2026-11-29. Resident set of a
// process that has multiplied matrices on the card; private pages of a DataLoader's worker, which
// shares the rest with its parent. Again: /proc/self/status, and smaps_rollup of a worker.
constexpr Bytes kProcess{std::int64_t{879'040} * 1024};
constexpr Bytes kWorker{std::int64_t{15'224} * 1024};

/// What lives at the end of `program` in the categories that a checkpoint holds, per category.
struct Saved {
  Bytes parameters{};
  Bytes optimizer{};
  Bytes largest{};
};
Saved saved_of(const Program& program) {
  Saved saved;
  std::unordered_map<std::uint32_t, const Op*> live;  // looked up only: its order shows nowhere
  const auto add = [&](const Op& op, std::int64_t sign) {
    const Category category = category_of(op);
    (category == Category::parameter ? saved.parameters : saved.optimizer) +=
        sign * Bytes{op.value};
  };
  for (const Op& op : program.ops) {
    if (op.kind == OpKind::allocate &&
        (category_of(op) == Category::parameter || category_of(op) == Category::optimizer)) {
      live[op.id] = &op;
      add(op, 1);
    } else if (op.kind == OpKind::free) {
      if (const auto at = live.find(op.id); at != live.end()) {
        add(*at->second, -1);
        live.erase(at);
      }
    }
  }
  for (const auto& [id, op] : live) {
    saved.largest = std::max(saved.largest, Bytes{op->value});
  }
  return saved;
}

/// Whole units, upwards.
std::int64_t units(Bytes size, Bytes unit) { return round_up(size, unit).count() / unit.count(); }

}  // namespace

// torch/utils/data/dataloader.py: at the start, and with each batch that it hands out, the loader
// asks its workers for so many that workers x prefetch_factor are under way (_try_put_index); the
// loop holds one more. Without workers the loop's batch is alive while the next one is made.
std::int64_t Loader::batches() const { return workers > 0 ? workers * prefetch + 1 : 2; }

LoaderFlags::LoaderFlags(CommandLine& line) : line_{line} {
  constexpr std::int64_t kMost = 1 << 12;
  line.topic("host");
  line.number("loader-workers", loader_.workers,
              "processes of the DataLoader (num_workers): with any flag of this group the answer "
              "tells what the host needs",
              0, kMost);
  line.number("prefetch-factor", loader_.prefetch, "batches that each of them prepares", 1, kMost);
  line.flag("pin-memory", loader_.pins, "batches go through pinned memory");
  line.topic("");
}

std::optional<Loader> LoaderFlags::loader() const {
  if (line_.given("prefetch-factor") && loader_.workers == 0) {
    throw Fault{"--prefetch-factor needs --loader-workers"};
  }
  const bool given = line_.given("loader-workers") || line_.given("pin-memory");
  return given ? std::optional{loader_} : std::nullopt;
}

Bytes loader_shared(const Loader& loader, const std::vector<Bytes>& tensors) {
  if (loader.workers == 0) {
    return Bytes{};
  }
  // A worker's tensors are files of /dev/shm, one each (default_collate, _new_shared). A pinned
  // batch has left: the loop's one takes nothing here.
  const std::int64_t batches = loader.batches() - (loader.pins ? 1 : 0);
  Bytes batch;
  for (const Bytes tensor : tensors) {
    batch += round_up(tensor, kPage);
  }
  // A semaphore is a page. A multiprocessing.Queue has three; there is one queue a worker and one
  // for the results; the event that ends the workers has five.
  constexpr std::int64_t kOfQueue = 3;
  constexpr std::int64_t kOfEvent = 5;
  return batches * batch + (kOfQueue * (loader.workers + 1) + kOfEvent) * kPage;
}

// CachingHostAllocator.h (PyTorch 2.11): allocate() rounds to a power of two, and what was freed is
// kept for the next request of that size.
Bytes loader_pinned(const Loader& loader, const std::vector<Bytes>& tensors) {
  Bytes batch;
  for (const Bytes tensor : tensors) {
    batch +=
        Bytes{static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(tensor.count())))};
  }
  return loader.pins ? loader.batches() * batch : Bytes{};
}

Bytes HostMemory::node_memory() const {
  // The model is on the card before the first batch is made, and before anything is saved.
  const Bytes training = shared + pinned + std::max(torch_save, safetensors_save);
  return processes * (process + workers + std::max(model, training));
}

HostMemory host_memory(const Run& run, const Loader& loader) {
  const HostTensors tensors = host_tensors(run.spec, run.model);
  const Saved saved = saved_of(program_of(run, Time::none));
  return {.loader = loader,
          .processes = std::min(run.spec.world, run.gpu.rates.cards_per_node),
          .shared = loader_shared(loader, tensors.batch),
          .pinned = loader_pinned(loader, tensors.batch),
          .model = tensors.model,
          .checkpoint = saved.parameters + saved.optimizer,
          // Storage by storage (torch/serialization.py, _save).
          .torch_save = saved.largest,
          // safetensors.torch.save_file holds all tensors of a file.
          .safetensors_save = saved.parameters,
          .process = kProcess,
          .workers = loader.workers * kWorker};
}

std::string host_text(const HostMemory& host) {
  Table table{{{"on the host, of each process", Table::Align::left}, {"size"}}};
  const auto row = [&](const std::string& name, Bytes size) {
    if (size > Bytes{}) {
      table.add_row({name, size_text(size)});
    }
  };
  row(fmt::format("in /dev/shm, {} batches{}", host.loader.batches() - (host.loader.pins ? 1 : 0),
                  host.loader.pins ? " at the most" : ""),
      host.shared);
  row(fmt::format("pinned, {} batches in powers of two", host.loader.batches()), host.pinned);
  row("the model while it is built, in fp32", host.model);
  row("while torch.save writes a checkpoint", host.torch_save);
  row("while save_pretrained writes the weights", host.safetensors_save);
  row("Python, PyTorch, the CUDA context", host.process);
  row(fmt::format("{} workers of the loader", host.loader.workers), host.workers);
  const std::string processes =
      host.processes > 1 ? fmt::format(" for {} processes", host.processes) : "";
  // Docker's own /dev/shm has 64 MiB.
  const std::int64_t shm = std::max<std::int64_t>(64, units(host.node_shared(), 1_MiB));
  const std::int64_t memory = units(host.node_memory(), 1_GiB);
  return "\n" + table.text() +
         folded(fmt::format(
             "a checkpoint of each process has {}; dataset and own data come on top\n\n",
             size_text(host.checkpoint))) +
         fmt::format(
             "a container{}:\n"
             "  docker run --gpus all --shm-size={}m --memory={}g\n"
             "  Kubernetes: resources: {{limits: {{memory: {}Gi, nvidia.com/gpu: {}}}}}\n"
             "    volume at /dev/shm: emptyDir: {{medium: Memory, sizeLimit: {}Mi}}\n",
             processes, shm, memory, memory, host.processes, shm);
}

Json host_json(const HostMemory& host) {
  return {{"processes", host.processes},
          {"batches_in_flight", host.loader.batches()},
          {"shared_memory_bytes", host.shared.count()},
          {"pinned_bytes", host.pinned.count()},
          {"model_build_bytes", host.model.count()},
          {"checkpoint_bytes", host.checkpoint.count()},
          {"torch_save_bytes", host.torch_save.count()},
          {"save_pretrained_bytes", host.safetensors_save.count()},
          {"process_bytes", host.process.count()},
          {"workers_bytes", host.workers.count()},
          {"node_shared_memory_bytes", host.node_shared().count()},
          {"node_memory_bytes", host.node_memory().count()}};
}

}  // namespace peakcast::app
