#pragma once

#include <string>
#include <string_view>

namespace peakcast::capture {

/// Notes an answer that rests on a rule, for the report. May be called with any lock held: it is
/// kept for the thread until settle_assumptions().
void assume(std::string_view question, std::string_view answer);

/// Writes what this thread assumed, with the program's line. No lock is held: Python is asked where
/// it is.
void settle_assumptions();

/// Asks for the program's line: `file:line`. Set by hooks.py; null where there is no Python.
using SiteFunction = const char* (*)();

}  // namespace peakcast::capture
