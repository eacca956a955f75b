#pragma once

#include <string_view>

namespace peakcast::app {

/// The help's last part: the words that every answer uses.
inline constexpr std::string_view kGlossary =
    "what the words mean:\n"
    "  requested    what the program asked for\n"
    "  allocated    the blocks that serve it, rounded up\n"
    "               (torch.cuda.memory_allocated)\n"
    "  active       these, and freed blocks that another stream may still use\n"
    "  reserved     what the allocator holds of the card: active blocks and the free\n"
    "               ones that it keeps (torch.cuda.memory_reserved)\n"
    "  on the card  reserved, and what no allocator sees: the CUDA context, loaded\n"
    "               kernels, NCCL's buffers\n"
    "  nvidia-smi   shows more than PyTorch's figures: for this process what is on\n"
    "               the card now, with freed blocks that the allocator keeps; in the\n"
    "               sum also other processes and what the driver keeps for itself\n"
    "  tight        fits by retries, or by less than is not known\n";

}  // namespace peakcast::app
