#pragma once

#include <memory>

#include "allocators/policy.hpp"

namespace peakcast {

/// A plan from profiled iterations. The first iteration is let pass (it makes the optimizer's
/// state); the next `profile` are watched, and one more for the deaths: the size and the life of
/// every request, by its place in the iteration. What does not outlive the iterations is packed
/// offline (see packing.hpp), each place with the largest size seen there; then one arena of that
/// size is taken, and a request that comes at its place, fits, and finds its room empty goes where
/// the plan says. Everything else, and every run without iterations, goes to blocks and segments as
/// the native allocator cuts them. Settings: `profile:N` iterations (1). Source: "STAlloc:
/// Enhancing Memory Efficiency in Large-Scale Model Training with Spatio-Temporal Planning", 2025.
/// Leaves out: use of the arena's idle holes for requests outside the plan; new plans when shapes
/// change.
[[nodiscard]] Expected<std::unique_ptr<Allocator>> make_stalloc(Device& device, Streams& streams,
                                                                const PolicyOptions& options);

}  // namespace peakcast
