#pragma once

#include <memory>

#include "allocators/policy.hpp"

namespace peakcast {

/// GMLake's virtual memory stitching. Physical memory comes in chunks of 2 MiB; a primitive block
/// is a run of chunks with an address range of its own, a stitched block another address range over
/// the chunks of several primitive blocks. A request from 2 MiB on takes, in this order:
///  1. a primitive or stitched block of exactly its size, all of whose chunks are idle;
///  2. the smallest larger primitive block, split in two;
///  3. idle primitive blocks, the largest first, the last one split, stitched together;
///  4. the same and a new primitive block for what is missing.
/// A freed stitched block keeps its mapping for the next request of its size; beyond `stitches`
/// idle ones the least recently used is taken apart. Blocks smaller than `frag_limit` are neither
/// split nor stitched. Smaller requests go to the native allocator's small segments.
/// Settings: `frag_limit:SIZE` (2 MiB: everything takes part), `stitches:N` (4096).
/// Source: Guo et al., "GMLake: Efficient and Transparent GPU Memory Defragmentation for
/// Large-scale DNN Training with Virtual Memory Stitching", ASPLOS 2024, sections 3 and 4.
/// Leaves out: its heuristics for when stitching is not worth its time.
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_gmlake(Device& device, Streams& streams,
                                                               const PolicyOptions& options);

}  // namespace peakcast
