#include "sim/alloc/allocator.hpp"

namespace peakcast {

Served Allocator::serve(std::span<const Op> ops, std::span<BlockId> blocks) {
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const Op& op = ops[i];
    if (op.kind == OpKind::allocate && (op.flags & kAttempt) == 0) {
      const AllocOutcome outcome =
          allocate({.size = Bytes{op.value}, .stream = StreamId{op.stream}});
      if (const auto* failure = std::get_if<OutOfMemory>(&outcome)) {
        return {.ops = i, .failure = *failure};
      }
      blocks[op.id] = std::get<Placement>(outcome).block;
    } else if (op.kind == OpKind::free && blocks[op.id] != kUnplaced) {
      deallocate(blocks[op.id]);
      blocks[op.id] = kUnplaced;
    } else {
      return {.ops = i};
    }
  }
  return {.ops = ops.size()};
}

}  // namespace peakcast
