#pragma once

#include <cstdint>
#include <mutex>
#include <string_view>

#include "workloads/capture/cudnn_client.hpp"

/// What the files of cuDNN's functions share.
namespace peakcast::capture::cudnn {

/// One cuDNN call at a time.
[[nodiscard]] std::mutex& mutex();
/// The user's own cuDNN, asked without a card. `mutex()` is held.
[[nodiscard]] Client& client();
/// Work of a cuDNN handle on its stream: `name` and what it reads and writes. A cuDNN status.
int launch(void* handle, std::string_view name, std::int64_t bytes);
/// The work of a finalized plan on a handle's stream. A cuDNN status.
int run_plan(void* handle, void* plan);

}  // namespace peakcast::capture::cudnn
