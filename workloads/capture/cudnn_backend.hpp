#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "workloads/capture/cudnn_client.hpp"

namespace peakcast::capture::cudnn {

struct BackendDescriptor;
using DescriptorRef = std::shared_ptr<BackendDescriptor>;

/// What was set on a descriptor under one name.
struct AttributeValue {
  int type{};
  std::int64_t count{};
  std::vector<unsigned char> bytes{};        ///< of all types but descriptors
  std::vector<DescriptorRef> descriptors{};  ///< kept alive: cuDNN copies them
};

/// A backend descriptor: a bag of attributes, and what finalizing it found out.
struct BackendDescriptor {
  int type{};
  bool finalized{};
  std::map<int, AttributeValue> attributes{};
  std::int64_t number{};  ///< the planner's, when `sent_by` is this process
  int sent_by{};
  std::vector<EngineConfig> results{};   ///< of heuristics
  std::optional<EngineConfig> config{};  ///< of an engine or a configuration that came from there
  DescriptorRef graph{};                 ///< that the configuration is for
  std::int64_t workspace{};              ///< of a plan

  [[nodiscard]] const AttributeValue* find(int name) const;
  /// The first descriptor under a name, or null.
  [[nodiscard]] DescriptorRef first(int name) const;
  /// The numbers under a name; empty when there are none. Ints and 64-bit ints alike.
  [[nodiscard]] std::vector<std::int64_t> numbers(int name) const;
};

/// What the plan of a configuration needs on the card as workspace, in bytes, and cuDNN's status.
/// Source: the user's own cuDNN where there is one (cudnn_client.hpp), corrected for what it asks
/// of a real card (cudnn_schedule.hpp); else an assumption, which is reported.
[[nodiscard]] std::int64_t plan_workspace(const BackendDescriptor& config, int& status);

}  // namespace peakcast::capture::cudnn
