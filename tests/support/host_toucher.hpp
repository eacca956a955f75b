#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>

#include "cuda_check/toucher.hpp"
#include "sim/core/units.hpp"

namespace peakcast::testing {

/// A Toucher whose device memory is a map of ranges to keys. A stream's work is done at once, until
/// a pause: then it queues until run() or finish(). So a late reader sees what was written since.
class HostToucher final : public Toucher {
 public:
  void fill(const TouchedBlock& block, StreamId stream) override {
    submit(stream, {Kind::fill, block});
  }
  void verify(const TouchedBlock& block, StreamId stream) override {
    submit(stream, {Kind::verify, block});
  }
  void verify_late(const TouchedBlock& block, StreamId /*owner*/, StreamId user) override {
    verify_after_pause(block, user);
  }
  void verify_after_pause(const TouchedBlock& block, StreamId stream) override {
    queues_[stream].push_back({Kind::verify, block});
  }
  [[nodiscard]] TouchReport finish() override {
    for (auto& [stream, queue] : queues_) {
      run(stream);
    }
    return report_;
  }
  /// The stream's queued work ends.
  void run(StreamId stream) {
    std::deque<Work>& queue = queues_[stream];
    while (!queue.empty()) {
      perform(queue.front());
      queue.pop_front();
    }
  }

 private:
  enum class Kind : std::uint8_t { fill, verify };
  struct Work {
    Kind kind{};
    TouchedBlock block{};
  };
  struct Range {
    std::uint64_t end{};
    std::uint64_t key{};
  };

  void submit(StreamId stream, const Work& work) {
    std::deque<Work>& queue = queues_[stream];
    if (queue.empty()) {
      perform(work);
    } else {
      queue.push_back(work);
    }
  }

  void perform(const Work& work) {
    const std::uint64_t begin = work.block.address.value();
    const std::uint64_t end = (work.block.address + work.block.size).value();
    if (work.kind == Kind::fill) {
      cut(begin);
      cut(end);
      memory_.erase(memory_.lower_bound(begin), memory_.lower_bound(end));
      memory_[begin] = Range{end, work.block.key};
      report_.filled_bytes += work.block.size.count();
      return;
    }
    report_.verified_bytes += work.block.size.count();
    cut(begin);
    cut(end);
    std::uint64_t at = begin;
    for (auto range = memory_.lower_bound(begin); range != memory_.end() && range->first < end;
         ++range) {
      if (range->first != at || range->second.key != work.block.key) {
        corrupt(work.block, at, range->second.key);
        return;
      }
      at = range->second.end;
    }
    if (at != end) {
      corrupt(work.block, at, 0);
    }
  }

  void corrupt(const TouchedBlock& block, std::uint64_t at, std::uint64_t found) {
    ++report_.bad_words;
    if (!report_.first) {
      report_.first = Corruption{block.key, at - block.address.value(), block.key, found};
    }
  }

  /// Makes `at` a range's border.
  void cut(std::uint64_t at) {
    auto after = memory_.upper_bound(at);
    if (after == memory_.begin()) {
      return;
    }
    const auto range = std::prev(after);
    if (range->first < at && at < range->second.end) {
      memory_.emplace(at, range->second);
      range->second.end = at;
    }
  }

  std::map<std::uint64_t, Range> memory_{};
  std::map<StreamId, std::deque<Work>> queues_{};
  TouchReport report_{};
};

}  // namespace peakcast::testing
