// What a foreign policy may do to the program: nothing but fail the run, with policy, request and
// cause.
#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/program.hpp"

namespace {

using peakcast::testing_support::ProgramResult;
using peakcast::testing_support::run_program;

constexpr const char* kTrace =
    "alloc,7f0000000000,1024,0\nalloc,7f0000100000,2048,0\nalloc,7f0000200000,4096,0\n";

ProgramResult with(const std::string& settings) {
  return run_program({"replay", "-", "--policy", PEAKCAST_HOSTILE_POLICY, "--alloc-conf", settings},
                     kTrace);
}

TEST(ForeignPolicy, MayWork) {
  const ProgramResult result = with("");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_NE(result.out.find("requested"), std::string::npos) << result.out;
}

TEST(ForeignPolicy, WhateverItDoesFailsTheRunWithItsPolicyRequestAndCause) {
  const std::string at = "at request 3 (4096 bytes)";
  for (const auto& [settings, place, cause] :
       std::vector<std::tuple<std::string, std::string, std::string>>{
           {"exit", at, "take ended the process with status 0"},
           {"_exit", at, "take ended the process with status 0"},
           {"crash", at, "take crashed: Aborted"},
           {"throw 42", "at request 3", "take threw an exception"},
           {"throw error", "at request 3", "take threw an exception: of its own"},
           {"throw bad_alloc", "at request 3", "take threw an exception: std::bad_alloc"},
           {"destroy exit", at, "destroy ended the process with status 0"},
           {"destroy throw", at, "destroy threw an exception: at its end"},
           {"make exit", "hostile", "make ended the process with status 0"},
           {"map wrap", "at request 3", "map at 0xffffffffffe00000"},
           {"map odd", "at request 3", "no multiple of the granularity"}}) {
    const ProgramResult result = with(settings);
    EXPECT_EQ(result.status, 2) << settings << "\n" << result.out;
    EXPECT_EQ(result.out, "") << settings;
    EXPECT_NE(result.err.find("hostile"), std::string::npos) << settings << ": " << result.err;
    EXPECT_NE(result.err.find(place), std::string::npos) << settings << ": " << result.err;
    EXPECT_NE(result.err.find(cause), std::string::npos) << settings << ": " << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

TEST(ForeignPolicy, OfASweepsFileFailsTheSweepAndNotInSilence) {
  const std::string spec = std::string{R"({"run": {"model": "bert-tiny", "policy": ")"} +
                           PEAKCAST_HOSTILE_POLICY +
                           R"(", "alloc-conf": "exit"}, "grid": {"seq": [16, 32]}})";
  const ProgramResult result = run_program({"sweep", "-", "--jobs", "1"}, spec);
  EXPECT_EQ(result.status, 2) << result.out;
  EXPECT_NE(result.err.find("take ended the process with status 0"), std::string::npos)
      << result.err;
  EXPECT_EQ(result.out.find("fits"), std::string::npos) << result.out;
}

TEST(ForeignPolicy, IsTold) {
  const ProgramResult result = run_program({"policies", PEAKCAST_HOSTILE_POLICY});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_NE(result.out.find("a plug-in, 'hostile'"), std::string::npos) << result.out;
}

}  // namespace
