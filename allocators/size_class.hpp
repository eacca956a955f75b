#pragma once

#include <memory>

#include "allocators/policy.hpp"

namespace peakcast {

/// Segregated storage: a request rounds to one of four sizes per doubling, and a free block serves
/// its own class only, first freed last used; blocks never split or join. Classes up to 1 MiB are
/// cut from slabs of 2 MiB; larger ones come from the driver one by one, in pages of 2 MiB. Slabs
/// and blocks that are wholly free go back only when memory runs out or the cache is emptied.
/// Source: Wilson, Johnstone, Neely, Boles, "Dynamic storage allocation: a survey and critical
/// review", IWMM 1995 (simple segregated storage); the classes are jemalloc's.
/// Leaves out: thread caches (there is one host thread).
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_size_class(Device& device, Streams& streams,
                                                                   const PolicyOptions& options);

}  // namespace peakcast
