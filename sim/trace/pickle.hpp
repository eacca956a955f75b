#pragma once

#include <string>
#include <string_view>

#include "sim/core/error.hpp"
#include "sim/core/units.hpp"
#include "sim/trace/document.hpp"

namespace peakcast {

/// Reads a pickle of any protocol (0 to 5) that holds data only: None, booleans, integers, floats,
/// texts, bytes, lists, tuples, dicts and the memo. An own machine, no part of Python's: it has no
/// opcode that could name or call anything, and refuses those (GLOBAL, STACK_GLOBAL, REDUCE, BUILD,
/// OBJ, INST, NEWOBJ, NEWOBJ_EX, PERSID, BINPERSID, EXT, buffers) by name, with the offset.
/// No claimed length is believed before the bytes are there, nothing recurses, and what would take
/// more than `most` of memory is refused. O(bytes).
[[nodiscard]] Expected<Document> read_pickle(std::string_view bytes, const std::string& name,
                                             Bytes most);

}  // namespace peakcast
