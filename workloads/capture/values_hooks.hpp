#pragma once

#include <cstddef>
#include <string_view>

#include "workloads/capture/cuda_types.hpp"

/// What the bytes on the card are: no kernel runs, so these answer for them. Called with the
/// machine's lock held. Pointers to the card may be read and written by the host.
namespace peakcast::capture {

void values_copied_to_card(void* card, const void* host, std::size_t size);
/// Writes all of `host`. `last_kernel` is the mangled name of what was launched last.
void values_copied_to_host(void* host, const void* card, std::size_t size,
                           std::string_view last_kernel);
void values_copied_on_card(void* to, const void* from, std::size_t size);
void values_set(void* card, int byte, std::size_t size);
/// A kernel that would run; `arguments` are pointers to its parameters.
void values_launched(std::string_view kernel, const Dim3& grid, const Dim3& block,
                     void** arguments);
/// Memory that was handed out anew, went back, or was written by what nobody computes.
void values_forgotten(void* card, std::size_t size);
/// Whether the bytes there are what a real card would have.
[[nodiscard]] bool values_known(const void* card, std::size_t size);

}  // namespace peakcast::capture
