#pragma once

#include <string>
#include <string_view>

#include "sim/core/error.hpp"
#include "sim/trace/byte_source.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// Whether `line` can be the header of a minimalloc problem.
[[nodiscard]] bool is_minimalloc_header(std::string_view line);

/// An offline packing problem as minimalloc writes it. The header names the columns in any order:
/// `id` (`buffer`, `buffer_id`), `lower` (`start`, `begin`), `upper` (or `end`, which is
/// inclusive), `size`; optional `alignment`, `hint`, `offset` (not used), `gaps` (must be empty: a
/// buffer that needs nothing for a while has no counterpart in a program). The first empty line
/// ends the problem. Becomes a program: at each time the frees in row order, then the allocations
/// in row order, so that half-open lives may touch; ids become labels, the problem's time the ops'.
/// Alignments beyond 512 are refused. O(rows log rows).
[[nodiscard]] Expected<Trace> read_minimalloc_csv(Window& window);

/// One row per buffer: id (0, 1, …), lower and upper (indices of its ops; upper where it can be
/// used again), size rounded up to 512. A buffer that is never freed ends behind the last op.
[[nodiscard]] std::string minimalloc_csv(const Trace& trace);

}  // namespace peakcast
