#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/program.hpp"

namespace peakcast::testing_support {

using nlohmann::json;
using Words = std::vector<std::string>;

[[nodiscard]] inline Words with(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// What a command reports as JSON; it ends with `status`, or the test fails.
[[nodiscard]] inline json report_of(const Words& words, int status) {
  const ProgramResult result = run_program(with(words, {"--format", "json"}));
  EXPECT_EQ(result.status, status) << result.err;
  return json::parse(result.out, nullptr, false);
}

}  // namespace peakcast::testing_support
