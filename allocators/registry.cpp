#include "allocators/registry.hpp"

#include <array>
#include <utility>
#include <vector>

#include "allocators/bfc.hpp"
#include "allocators/buddy.hpp"
#include "allocators/cuda_malloc.hpp"
#include "allocators/cuda_malloc_async.hpp"
#include "allocators/deferred_defrag.hpp"
#include "allocators/gmlake.hpp"
#include "allocators/peakcast/allocator.hpp"
#include "allocators/plugin/plugin.hpp"
#include "allocators/pytorch/caching_allocator.hpp"
#include "allocators/rmm_arena.hpp"
#include "allocators/rmm_pool.hpp"
#include "allocators/size_class.hpp"
#include "allocators/stalloc.hpp"
#include "allocators/swap.hpp"
#include "allocators/tlsf.hpp"
#include "sim/core/nearest.hpp"

namespace peakcast {
namespace {

using Made = Expected<std::unique_ptr<Allocator>>;

Made make_pytorch(Device& device, Streams& streams, const PolicyOptions& options) {
  Expected<pytorch::Version> version = pytorch::find_version(options.version);
  if (!version) {
    return version.error();
  }
  Expected<pytorch::Settings> settings = pytorch::parse_settings(options.alloc_conf, *version);
  if (!settings) {
    return settings.error();
  }
  if (settings->cuda_malloc_async) {
    return invalid_input(
        "alloc-conf: backend:cudaMallocAsync is another policy: --policy cuda-malloc-async");
  }
  if (device.spec().total > Bytes{std::int64_t{1} << 40}) {
    return invalid_input("the pytorch policy simulates cards of up to 1 TiB");
  }
  return std::unique_ptr<Allocator>{std::make_unique<pytorch::CachingAllocator>(
      device, streams,
      pytorch::CachingAllocator::Options{
          .version = *version, .settings = *settings, .limit = options.limit})};
}

constexpr std::array kPolicies{
    PolicyEntry{.name = "bfc",
                .summary = "TensorFlow's and XLA's best fit with coalescing; regions double",
                .options = "alloc-conf growth:SIZE",
                .source = "tsl/framework/bfc_allocator, re-described",
                .make = make_bfc},
    PolicyEntry{.name = "buddy",
                .summary = "binary buddies",
                .options = "alloc-conf segment:SIZE",
                .source = "Knowlton 1965; Knuth, TAOCP 1, 2.5",
                .make = make_buddy},
    PolicyEntry{.name = "cuda-malloc",
                .summary = "no cache: every allocation is a cudaMalloc",
                .options = "",
                .source = "the driver as measured on an H100, driver 580.159.04",
                .make = make_cuda_malloc},
    PolicyEntry{
        .name = "cuda-malloc-async",
        .summary = "the driver's stream-ordered pool",
        .options = "alloc-conf threshold:SIZE",
        .source = "CUDA runtime API, stream-ordered memory; its rules as measured on an H100",
        .make = make_cuda_malloc_async,
        .needs_time = true},
    PolicyEntry{
        .name = "deferred-defrag",
        .summary = "the native blocks, released late by age, idle segments returned before growing",
        .options = "alloc-conf age:N",
        .source = "the claim that README answers",
        .make = make_deferred_defrag},
    PolicyEntry{.name = "gmlake",
                .summary = "virtual-memory stitching",
                .options = "alloc-conf frag_limit:SIZE, stitches:N",
                .source = "Guo et al., ASPLOS 2024",
                .make = make_gmlake},
    PolicyEntry{.name = "peakcast",
                .summary = "one heap near the largest live sum: stitched holes, repeated places",
                .options = "alloc-conf tight or fast",
                .source = "allocators/peakcast/README.md",
                .make = near_floor::make_near_floor},
    PolicyEntry{.name = "pytorch",
                .summary = "PyTorch's native caching allocator",
                .options = "version 2.5 to 2.11; alloc-conf as PYTORCH_CUDA_ALLOC_CONF",
                .source = "c10/cuda/CUDACachingAllocator.cpp, re-described; checked on recordings",
                .make = make_pytorch},
    PolicyEntry{.name = "rmm-arena",
                .summary = "RAPIDS' arenas of superblocks",
                .options = "alloc-conf arena_size:SIZE",
                .source = "rapidsai/rmm, arena_memory_resource, re-described",
                .make = make_rmm_arena},
    PolicyEntry{.name = "rmm-pool",
                .summary = "RAPIDS' coalescing pool, which doubles",
                .options = "alloc-conf initial_pool_size:SIZE, maximum_pool_size:SIZE",
                .source = "rapidsai/rmm, pool_memory_resource, re-described",
                .make = make_rmm_pool},
    PolicyEntry{.name = "size-class",
                .summary = "segregated size classes that never split or join",
                .options = "",
                .source = "Wilson et al. 1995; jemalloc's classes",
                .make = make_size_class},
    PolicyEntry{.name = "stalloc",
                .summary = "a packed plan from a profiled iteration, else the native blocks",
                .options = "alloc-conf profile:N",
                .source = "STAlloc, 2025",
                .make = make_stalloc},
    PolicyEntry{.name = "swap",
                .summary = "unified memory with a host tier",
                .options = "alloc-conf resident:SIZE, rate:SIZE",
                .source = "CUDA programming guide, unified memory",
                .make = make_swap},
    PolicyEntry{.name = "tlsf",
                .summary = "two-level segregated fit",
                .options = "alloc-conf segment:SIZE",
                .source = "Masmano et al., ECRTS 2004",
                .make = make_tlsf},
};

}  // namespace

std::span<const PolicyEntry> policies() { return kPolicies; }

const PolicyEntry* find_policy(std::string_view name) {
  for (const PolicyEntry& entry : kPolicies) {
    if (entry.name == name) {
      return &entry;
    }
  }
  return nullptr;
}

bool needs_time(const PolicyName& name) {
  const PolicyEntry* entry = find_policy(name.base);
  return entry != nullptr && entry->needs_time;
}

Expected<std::unique_ptr<Allocator>> make_policy(const PolicyName& name, Device& device,
                                                 Streams& streams, PolicyOptions options) {
  if (is_plugin(name.base)) {
    return load_plugin(name.base, device, streams, options);
  }
  if (!name.settings.empty()) {
    options.alloc_conf += (options.alloc_conf.empty() ? "" : ",") + name.settings;
  }
  if (!name.release.empty()) {
    options.version = name.release;
  }
  const PolicyEntry* entry = find_policy(name.base);
  if (entry == nullptr) {
    std::vector<std::string_view> names;
    names.reserve(kPolicies.size());
    for (const PolicyEntry& policy : kPolicies) {
      names.push_back(policy.name);
    }
    return Error{ErrorCode::not_found, unknown_word("policy", name.base, names), std::nullopt};
  }
  return entry->make(device, streams, options);
}

}  // namespace peakcast
