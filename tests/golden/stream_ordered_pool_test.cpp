// What cuMemAllocAsync answered on an H100 (driver 580.159.04, recorded on 2026-11-28 with
// `peakcast-cuda-check pool`): the address and the pool's reserved memory of each allocation of the
// programs in tests/data/pool, with the card
//   waited   held back until the host waits for it (`wait`),
//   passed   held back until then, but nobody asks the driver,
//   idle     never held back.
// A row is `allocate,id,bytes,stream` and for each of the columns that the first line names its
// offset in steps of 512 bytes and the reserved chunks of 32 MiB; or `free,id,stream`, `wait`,
// `trim,bytes`.
#include <cstdint>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "sim/device/simulated_device.hpp"
#include "sim/trace/byte_source.hpp"
#include "tests/support/scripted_streams.hpp"

namespace peakcast {
namespace {

using namespace literals;
using Row = std::vector<std::string>;

Row split(const std::string& line) {
  Row row;
  std::istringstream in{line};
  for (std::string cell; std::getline(in, cell, ',');) {
    row.push_back(cell);
  }
  return row;
}

std::vector<Row> read_rows(const std::string& name) {
  const std::string path = std::string{PEAKCAST_TEST_DATA "/pool/"} + name + ".csv.zst";
  std::vector<Row> rows;
  auto file = open_file(path);
  auto window = file ? Window::open(std::move(*file), path) : Expected<Window>{file.error()};
  if (!window) {
    ADD_FAILURE() << to_string(window.error());
    return rows;
  }
  LineReader lines{*window};
  std::string_view line;
  for (auto more = lines.next(line); more && *more; more = lines.next(line)) {
    rows.push_back(split(std::string{line}));
  }
  return rows;
}

/// The first row at which the simulated pool answers otherwise; "" when there is none.
std::string first_difference(const std::vector<Row>& rows, std::size_t column) {
  const std::string how = rows[0][column].substr(rows[0][column].rfind(' ') + 1);
  support::ScriptedStreams streams;
  SimulatedDevice device{
      {.spec = {.name = "card", .total = 80_GiB}, .streams = how == "idle" ? nullptr : &streams}};
  struct Live {
    Address address{};
    std::uint64_t size{};
  };
  std::map<std::string, Live> live;
  std::optional<std::uint64_t> base;
  for (std::size_t i = 1; i < rows.size(); ++i) {
    const Row& row = rows[i];
    if (row[0] == "wait") {
      streams.synchronize_device();
      if (how != "passed") {
        device.synchronized();
      }
    } else if (row[0] == "trim") {
      device.pool_trim(Bytes{std::stoll(row[1])});
    } else if (row[0] == "free") {
      const StreamId stream{static_cast<std::uint32_t>(std::stoul(row[2]))};
      device.pool_free(live.at(row[1]).address, stream);
      live.erase(row[1]);
    } else {
      const StreamId stream{static_cast<std::uint32_t>(std::stoul(row[3]))};
      const auto address = device.pool_allocate(Bytes{std::stoll(row[2])}, stream);
      if (!address) {
        return "row " + std::to_string(i) + ": the card is full";
      }
      base = base.value_or(address->value());
      live[row[1]] = {*address, std::stoull(row[2])};
      const std::string offset = std::to_string((address->value() - *base) / 512);
      const std::string chunks = std::to_string(device.pool_reserved().count() >> 25);
      if (offset != row[4 + 2 * column] || chunks != row[5 + 2 * column]) {
        return "row " + std::to_string(i) + ", " + row[2] + " bytes: at " + offset + " of " +
               chunks + " chunks, recorded at " + row[4 + 2 * column] + " of " +
               row[5 + 2 * column];
      }
    }
  }
  return "";
}

TEST(StreamOrderedPool, AnswersAsTheDriverDid) {
  for (const char* name : {"bert_large_varlen", "random", "random_trims", "random_two_streams"}) {
    const std::vector<Row> rows = read_rows(name);
    ASSERT_GT(rows.size(), 1000U) << name;
    for (std::size_t column = 0; column < rows[0].size(); ++column) {
      EXPECT_EQ(first_difference(rows, column), "") << name << ", " << rows[0][column];
    }
  }
}

// Recorded as `peakcast-cuda-check pool --full`: 500 MiB are free beside a pool of 1 GiB.
TEST(StreamOrderedPool, KeepsWhatItGotBeforeTheCardWasFull) {
  support::ScriptedStreams streams;
  SimulatedDevice device{{.spec = {.name = "card", .total = 1524_MiB}, .streams = &streams}};
  const StreamId stream{0};
  const auto first = device.pool_allocate(1_GiB, stream);
  ASSERT_TRUE(first);
  device.pool_free(*first, stream);
  // The card has not passed the free: its range is too small, and 41 chunks are not to be had.
  EXPECT_FALSE(device.pool_allocate(1300_MiB, stream));
  EXPECT_EQ(device.pool_reserved(), 1504_MiB);
  EXPECT_EQ(device.pool_allocate(700_MiB, stream), first);
}

TEST(StreamOrderedPool, LetsAnotherStreamWaitForARangeOnlyWhenTheCardIsFull) {
  support::ScriptedStreams streams;
  SimulatedDevice device{{.spec = {.name = "card", .total = 1524_MiB}, .streams = &streams}};
  const auto first = device.pool_allocate(1_GiB, StreamId{0});
  ASSERT_TRUE(first);
  device.pool_free(*first, StreamId{0});
  const auto beside = device.pool_allocate(64_MiB, StreamId{1});
  ASSERT_TRUE(beside);
  EXPECT_NE(beside, first);
  EXPECT_EQ(device.pool_allocate(700_MiB, StreamId{1}), first);
}

}  // namespace
}  // namespace peakcast
