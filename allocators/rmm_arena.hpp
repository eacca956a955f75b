#pragma once

#include <memory>

#include "allocators/policy.hpp"

namespace peakcast {

/// RAPIDS' arena_memory_resource: a global arena cuts its memory into superblocks of at least 1 MiB
/// (first fit by address; the remainder stays a superblock when it is that large). Requests above
/// 1 MiB are served by the global arena itself; smaller ones by the stream's own arena, first fit
/// in the superblocks it has, which it gives back only when memory runs out. Requests round to
/// jemalloc's size classes, 256 bytes at least. Free superblocks that touch join.
/// Settings: `arena_size:SIZE`, what is taken at the start, and then nothing more. Default: 0, one
/// range of addresses that is mapped as far as it was ever needed, in steps of 64 MiB: the smallest
/// arena that would have done.
/// Source: rapidsai/rmm, arena_memory_resource and detail/arena, re-described.
/// Leaves out: its default arena of half the card (give arena_size to have it); threads.
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_rmm_arena(Device& device, Streams& streams,
                                                                  const PolicyOptions& options);

}  // namespace peakcast
