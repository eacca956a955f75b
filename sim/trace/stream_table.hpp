#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sim/core/units.hpp"
#include "sim/trace/address_map.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// Stream handles to dense ids. While reading, ids go by first appearance (0 is handle 0's); at the
/// end they are renamed in handle order, because allocators order by the handle. id(): O(1).
class StreamTable {
 public:
  /// Empty when there are more streams than an op can name, or the handle is kUnknownStream.
  std::optional<StreamId> id(std::uint64_t handle) {
    if (handle == last_handle_) {
      return last_;
    }
    if (handle == kUnknownStream) {
      return std::nullopt;
    }
    std::uint32_t index = 0;
    if (handle != 0) {
      if (const auto known = ids_.find(handle)) {
        index = *known;
      } else {
        // One index stays free for kUnknownStream.
        if (handles_.size() >= 0xffff) {
          return std::nullopt;
        }
        index = static_cast<std::uint32_t>(handles_.size());
        ids_.insert(handle, index);
        handles_.push_back(handle);
      }
    }
    last_handle_ = handle;
    last_ = StreamId{index};
    return last_;
  }
  /// The handles in ascending order, the final table. `names` gets the final id of each id.
  [[nodiscard]] std::vector<std::uint64_t> take(std::vector<StreamId>& names) {
    std::vector<std::uint32_t> order(handles_.size());
    std::iota(order.begin(), order.end(), 0U);
    std::sort(order.begin(), order.end(),
              [&](std::uint32_t a, std::uint32_t b) { return handles_[a] < handles_[b]; });
    names.resize(handles_.size());
    std::vector<std::uint64_t> sorted;
    for (const std::uint32_t old : order) {
      names[old] = StreamId{static_cast<std::uint32_t>(sorted.size())};
      sorted.push_back(handles_[old]);
    }
    return sorted;
  }
  /// Finishes a trace whose events (and final segments) name streams of this table.
  void finish(Trace& trace) {
    std::vector<StreamId> names;
    trace.streams = take(names);
    for (AllocatorEvent& event : trace.recording->events) {
      event.stream = names[event.stream.value];
    }
    for (RecordedSegment& segment : trace.recording->segments) {
      segment.stream = names[segment.stream.value];
    }
  }

 private:
  std::vector<std::uint64_t> handles_{0};
  AddressMap ids_{};
  std::uint64_t last_handle_{};
  StreamId last_{};
};

/// Words to dense indices by first appearance.
class StringTable {
 public:
  std::uint32_t index(std::string_view word) {
    const auto [at, fresh] =
        indices_.try_emplace(std::string{word}, static_cast<std::uint32_t>(words_.size()));
    if (fresh) {
      words_.push_back(at->first);
    }
    return at->second;
  }
  [[nodiscard]] std::vector<std::string> take() { return std::move(words_); }

 private:
  std::unordered_map<std::string, std::uint32_t> indices_{};
  std::vector<std::string> words_{};
};

}  // namespace peakcast
