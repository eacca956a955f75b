#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sim/core/units.hpp"
#include "sim/trace/address_map.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// Stream handles to dense ids by first appearance; handle 0 is id 0. O(1).
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
  [[nodiscard]] std::vector<std::uint64_t> take() { return std::move(handles_); }

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
