#include "cuda_check/pool_program.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/device/held_streams.hpp"
#include "sim/device/simulated_device.hpp"
#include "sim/trace/byte_source.hpp"

namespace peakcast {
namespace {

constexpr std::int64_t kStep = 512;
constexpr std::int64_t kChunk = 32LL << 20;
constexpr std::uint32_t kMostStreams = 64;
constexpr std::array kPaces{PoolPace::waited, PoolPace::passed, PoolPace::idle, PoolPace::trained};

std::vector<std::string_view> cells_of(std::string_view line) {
  std::vector<std::string_view> cells;
  while (true) {
    const std::size_t comma = line.find(',');
    cells.push_back(line.substr(0, comma));
    if (comma == std::string_view::npos) {
      return cells;
    }
    line.remove_prefix(comma + 1);
  }
}

/// A number from 0 to `most`.
std::optional<std::int64_t> number_of(std::string_view cell, std::int64_t most) {
  std::int64_t value = 0;
  const char* const end = cell.data() + cell.size();
  const auto [stopped, fault] = std::from_chars(cell.data(), end, value);
  if (fault != std::errc{} || stopped != end || value < 0 || value > most) {
    return std::nullopt;
  }
  return value;
}

class Reader {
 public:
  explicit Reader(LineReader& lines) : lines_{lines} {}

  Expected<PoolProgram> read() {
    std::string_view line;
    for (auto more = lines_.next(line);; more = lines_.next(line)) {
      if (!more) {
        return more.error();
      }
      if (!*more) {
        return std::move(program_);
      }
      if (const auto taken = lines_.number() == 1 ? header(line) : row(cells_of(line)); !taken) {
        return taken.error();
      }
    }
  }

 private:
  Expected<Ok> header(std::string_view line) {
    constexpr std::string_view kStart = "# ";
    if (!line.starts_with(kStart)) {
      return lines_.error("a pool program begins with '# ' and the recorded paces");
    }
    line.remove_prefix(kStart.size());
    if (line.empty()) {
      return Ok{};
    }
    for (const std::string_view name : cells_of(line)) {
      const auto pace = std::find_if(kPaces.begin(), kPaces.end(),
                                     [&](PoolPace one) { return to_string(one) == name; });
      if (pace == kPaces.end() || program_.answers.contains(*pace)) {
        return lines_.error(fmt::format("'{}' is no pace, or there twice", name));
      }
      program_.answers.emplace(*pace, std::vector<PoolAnswer>{});
      columns_.push_back(*pace);
    }
    return Ok{};
  }

  Expected<Ok> row(const std::vector<std::string_view>& cells) {
    constexpr std::int64_t kMostBytes = 1LL << 40;
    constexpr std::int64_t kMostBuffers = 1LL << 31;
    const auto bad = [&] { return lines_.error("no step of a pool program"); };
    const std::size_t count = cells.size();
    PoolStep step;
    if (cells[0] == "wait" && count == 1) {
      step.kind = PoolStep::Kind::wait;
    } else if (cells[0] == "trim" && count == 2) {
      const auto keep = number_of(cells[1], kMostBytes);
      if (!keep) {
        return bad();
      }
      step = {.kind = PoolStep::Kind::trim, .size = Bytes{*keep}};
    } else if (cells[0] == "passed" && count == 2) {
      const auto frees = number_of(cells[1], kMostBuffers);
      if (!frees) {
        return bad();
      }
      step = {.kind = PoolStep::Kind::passed, .id = static_cast<std::uint32_t>(*frees)};
    } else if (cells[0] == "free" && count == 3) {
      const auto id = number_of(cells[1], kMostBuffers);
      const auto stream = number_of(cells[2], kMostStreams - 1);
      if (!id || !stream || !live_[*id]) {
        return bad();
      }
      live_[*id] = false;
      step = {.kind = PoolStep::Kind::free,
              .id = static_cast<std::uint32_t>(*id),
              .stream = StreamId{static_cast<std::uint32_t>(*stream)}};
    } else if (cells[0] == "allocate" && count == 4 + 2 * columns_.size()) {
      const auto id = number_of(cells[1], kMostBuffers);
      const auto size = number_of(cells[2], kMostBytes);
      const auto stream = number_of(cells[3], kMostStreams - 1);
      if (!id || !size || *size == 0 || !stream || live_[*id]) {
        return bad();
      }
      live_[*id] = true;
      step = {.kind = PoolStep::Kind::allocate,
              .id = static_cast<std::uint32_t>(*id),
              .size = Bytes{*size},
              .stream = StreamId{static_cast<std::uint32_t>(*stream)}};
      for (std::size_t i = 0; i < columns_.size(); ++i) {
        const auto offset = number_of(cells[4 + 2 * i], kMostBytes / kStep);
        const auto chunks = number_of(cells[5 + 2 * i], kMostBytes / kChunk);
        if (!offset || !chunks) {
          return bad();
        }
        program_.answers[columns_[i]].push_back(
            {.offset = Bytes{*offset * kStep}, .reserved = Bytes{*chunks * kChunk}});
      }
    } else {
      return bad();
    }
    program_.streams = std::max(program_.streams, step.stream.value + 1);
    program_.steps.push_back(step);
    return Ok{};
  }

  LineReader& lines_;
  PoolProgram program_{};
  std::vector<PoolPace> columns_{};
  std::unordered_map<std::int64_t, bool> live_{};  // never iterated
};

}  // namespace

std::string_view to_string(PoolPace pace) {
  switch (pace) {
    case PoolPace::waited:
      return "waited";
    case PoolPace::passed:
      return "passed";
    case PoolPace::idle:
      return "idle";
    case PoolPace::trained:
      return "trained";
  }
  return "?";
}

Expected<PoolProgram> read_pool_program(const std::string& path) {
  auto file = open_file(path);
  if (!file) {
    return file.error();
  }
  auto window = Window::open(std::move(*file), path);
  if (!window) {
    return window.error();
  }
  LineReader lines{*window};
  return Reader{lines}.read();
}

std::string pool_program_text(const PoolProgram& program) {
  std::vector<std::string_view> paces;
  for (const auto& [pace, answers] : program.answers) {
    paces.push_back(to_string(pace));
  }
  std::string text = fmt::format("# {}\n", fmt::join(paces, ","));
  std::size_t allocation = 0;
  for (const PoolStep& step : program.steps) {
    switch (step.kind) {
      case PoolStep::Kind::wait:
        text += "wait\n";
        break;
      case PoolStep::Kind::trim:
        text += fmt::format("trim,{}\n", step.size.count());
        break;
      case PoolStep::Kind::passed:
        text += fmt::format("passed,{}\n", step.id);
        break;
      case PoolStep::Kind::free:
        text += fmt::format("free,{},{}\n", step.id, step.stream.value);
        break;
      case PoolStep::Kind::allocate:
        text += fmt::format("allocate,{},{},{}", step.id, step.size.count(), step.stream.value);
        for (const auto& [pace, answers] : program.answers) {
          const PoolAnswer& answer = answers[allocation];
          text += fmt::format(",{},{}", answer.offset.count() / kStep,
                              answer.reserved.count() / kChunk);
        }
        text += '\n';
        ++allocation;
        break;
    }
  }
  return text;
}

std::optional<std::vector<PoolAnswer>> run_pool_program(
    const PoolProgram& program, Device& device, const std::function<void()>& at_wait,
    const std::function<void(std::uint32_t)>& at_passed) {
  std::vector<PoolAnswer> answers;
  std::unordered_map<std::uint32_t, Address> live;  // never iterated
  std::optional<Address> first;
  for (const PoolStep& step : program.steps) {
    switch (step.kind) {
      case PoolStep::Kind::wait:
        at_wait();
        break;
      case PoolStep::Kind::trim:
        device.pool_trim(step.size);
        break;
      case PoolStep::Kind::passed:
        if (at_passed) {
          at_passed(step.id);
        }
        break;
      case PoolStep::Kind::free:
        device.pool_free(live.at(step.id), step.stream);
        live.erase(step.id);
        break;
      case PoolStep::Kind::allocate: {
        const std::optional<Address> address = device.pool_allocate(step.size, step.stream);
        if (!address) {
          return std::nullopt;
        }
        first = first.value_or(*address);
        live.emplace(step.id, *address);
        answers.push_back({.offset = *address - *first, .reserved = device.pool_reserved()});
        break;
      }
    }
  }
  return answers;
}

std::optional<std::vector<PoolAnswer>> simulate_pool_program(const PoolProgram& program,
                                                             PoolPace pace,
                                                             const DeviceSpec& card) {
  HeldStreams streams;
  SimulatedDevice device{{.spec = card, .streams = pace == PoolPace::idle ? nullptr : &streams}};
  std::function<void(std::uint32_t)> at_passed;
  if (pace == PoolPace::trained) {
    at_passed = [&](std::uint32_t frees) { streams.complete(frees); };
  }
  return run_pool_program(
      program, device,
      [&] {
        streams.synchronize_device();
        if (pace != PoolPace::passed) {
          device.synchronized();
        }
      },
      at_passed);
}

}  // namespace peakcast
