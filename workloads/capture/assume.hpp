#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace peakcast::capture {

/// Notes an answer that rests on a rule, for the report. May be called with any lock held: it is
/// kept for the thread until settle_assumptions().
void assume(std::string_view question, std::string_view answer);

/// Looks up the program's line for what this thread asks next, where values are given by line. No
/// lock is held.
void look_up_site();
/// What the user gave for this question at that line, of `of` that could be.
[[nodiscard]] std::optional<std::int64_t> given_value(std::string_view question, std::int64_t of);

/// Writes what this thread assumed, with the program's line. No lock is held: Python is asked where
/// it is.
void settle_assumptions();

/// Asks for the program's line: `file:line`. Set by hooks.py; null where there is no Python.
using SiteFunction = const char* (*)();

}  // namespace peakcast::capture
