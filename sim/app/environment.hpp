#pragma once

#include <string>

#include "sim/app/command_line.hpp"

namespace peakcast::app {

/// PyTorch's allocator settings as its own variables give them to a program that is started from
/// here; "" when they are not set. Source: PyTorch 2.11, c10/core/AllocatorConfig.h: the name
/// without CUDA goes first.
[[nodiscard]] std::string settings_of_environment();

/// Same flags, same answer: those variables change nothing that peakcast works out itself, and
/// whoever set them is told. Silent where --alloc-conf says which settings are meant.
void note_unread_settings(const CommandLine& line);

}  // namespace peakcast::app
