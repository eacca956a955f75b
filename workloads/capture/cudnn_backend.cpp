// cuDNN's backend: descriptors are bags of attributes; whatever has to be known about engines and
// plans is asked of the user's own cuDNN, without a card.
#include "workloads/capture/cudnn_backend.hpp"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <string>
#include <unistd.h>
#include <unordered_map>

#include "workloads/capture/assume.hpp"
#include "workloads/capture/cudnn.hpp"
#include "workloads/capture/cudnn_types.hpp"
#include "workloads/capture/stub.hpp"

namespace peakcast::capture::cudnn {
namespace {

/// A graph's planner number is its own; 0 stands for none.
std::int64_t next_number = 1;
std::unordered_map<void*, DescriptorRef>& alive() {
  static auto* const all = new std::unordered_map<void*, DescriptorRef>;  // never iterated
  return *all;
}

DescriptorRef find(void* handle) {
  const auto at = alive().find(handle);
  return at == alive().end() ? nullptr : at->second;
}

std::string hex(const std::vector<unsigned char>& bytes) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text.empty() ? "00" : text;
}

/// Appends the lines that make `descriptor` in the planner, and those that it holds before it.
void serialise(BackendDescriptor& descriptor, std::string& lines) {
  if (descriptor.sent_by == getpid()) {
    return;
  }
  for (const auto& [name, value] : descriptor.attributes) {
    for (const DescriptorRef& other : value.descriptors) {
      serialise(*other, lines);
    }
  }
  descriptor.sent_by = getpid();
  descriptor.number = next_number++;
  const std::string number = std::to_string(descriptor.number);
  lines += "d " + number + ' ' + std::to_string(descriptor.type) + '\n';
  for (const auto& [name, value] : descriptor.attributes) {
    if (value.type == kHandle || value.type == kPointer) {
      continue;  // an address of this process says nothing there
    }
    const std::string count = std::to_string(value.count);
    if (value.type == kDescriptor) {
      lines += "r " + number + ' ' + std::to_string(name) + ' ' + count;
      for (const DescriptorRef& other : value.descriptors) {
        lines += ' ' + std::to_string(other->number);
      }
    } else {
      lines += "a " + number + ' ' + std::to_string(name) + ' ' + std::to_string(value.type) + ' ' +
               count + ' ' + hex(value.bytes);
    }
    lines += '\n';
  }
  lines += "f " + number + '\n';
}

/// The planner's number of a graph; cuDNN's status when it refuses the graph.
std::int64_t planner_number(BackendDescriptor& graph, int& status) {
  std::string lines;
  serialise(graph, lines);
  status = lines.empty() ? kSuccess : client().send(lines);
  return graph.number;
}

/// The one engine that stands for all where no cuDNN can be asked.
const EngineConfig kUnknownEngine{.id = 0, .engine = 0};

/// The bytes that the tensors of a graph's operations hold, at two bytes an element.
std::int64_t moved_bytes(const BackendDescriptor& graph) {
  std::int64_t sum = 0;
  const AttributeValue* const operations = graph.find(kGraphOperations);
  for (std::size_t i = 0; operations != nullptr && i < operations->descriptors.size(); ++i) {
    for (const auto& [name, value] : operations->descriptors[i]->attributes) {
      for (const DescriptorRef& tensor : value.descriptors) {
        std::int64_t elements = tensor->type == kTensor ? 1 : 0;
        for (const std::int64_t size : tensor->numbers(kTensorDimensions)) {
          elements *= size;
        }
        sum += 2 * elements;
      }
    }
  }
  return sum;
}

int finalize_heuristics(BackendDescriptor& heuristics) {
  const DescriptorRef graph = heuristics.first(kHeuristicsGraph);
  if (graph == nullptr) {
    return kBadParam;
  }
  heuristics.graph = graph;
  if (!client().version()) {
    heuristics.results = {kUnknownEngine};
    return kSuccess;
  }
  int status = kSuccess;
  const std::int64_t number = planner_number(*graph, status);
  if (status != kSuccess) {
    return status;
  }
  const auto mode = heuristics.numbers(kHeuristicsMode);
  const auto multiprocessors = heuristics.numbers(kHeuristicsMultiprocessors);
  heuristics.results = client().heuristics(
      number, mode.empty() ? 0 : static_cast<int>(mode[0]),
      multiprocessors.empty() ? 0 : static_cast<int>(multiprocessors[0]), status);
  return status;
}

/// A configuration made by hand: an engine's number and settings.
int finalize_config(BackendDescriptor& config) {
  if (config.config) {
    return kSuccess;
  }
  const DescriptorRef engine = config.first(kConfigEngine);
  if (engine == nullptr) {
    return kBadParam;
  }
  config.graph = engine->graph != nullptr ? engine->graph : engine->first(kEngineGraph);
  if (config.graph == nullptr) {
    return kBadParam;
  }
  if (!client().version()) {
    config.config = kUnknownEngine;
    return kSuccess;
  }
  int status = kSuccess;
  const std::int64_t graph = planner_number(*config.graph, status);
  EngineConfig made;
  const auto index = engine->numbers(kEngineIndex);
  made.engine = !index.empty() ? index[0] : engine->config ? engine->config->engine : 0;
  std::string knobs;
  if (const AttributeValue* const chosen = config.find(kConfigKnobs)) {
    for (const DescriptorRef& knob : chosen->descriptors) {
      const auto type = knob->numbers(kKnobType);
      const auto value = knob->numbers(kKnobValue);
      if (!type.empty() && !value.empty()) {
        made.knobs.emplace_back(static_cast<int>(type[0]), value[0]);
        knobs +=
            (knobs.empty() ? "" : ",") + std::to_string(type[0]) + ':' + std::to_string(value[0]);
      }
    }
  }
  if (status == kSuccess) {
    const auto id = client().configuration(
        std::to_string(graph) + ' ' + std::to_string(made.engine) + ' ' + knobs, status);
    made.id = id.value_or(0);
    config.config = made;
  }
  return status;
}

int finalize(BackendDescriptor& descriptor) {
  switch (descriptor.type) {
    case kOperationGraph: {
      int status = kSuccess;
      if (client().version()) {
        (void)planner_number(descriptor, status);
      }
      return status;
    }
    case kEngineHeuristics:
      return finalize_heuristics(descriptor);
    case kEngine:
      descriptor.graph = descriptor.first(kEngineGraph);
      return kSuccess;
    case kEngineConfig:
      return finalize_config(descriptor);
    case kExecutionPlan: {
      const DescriptorRef config = descriptor.first(kPlanConfig);
      if (config == nullptr || !config->config) {
        return kBadParam;
      }
      int status = kSuccess;
      descriptor.graph = config->graph;
      descriptor.workspace = plan_workspace(*config, status);
      return status;
    }
    default:
      return kSuccess;
  }
}

/// Answers `count` values of T to an attribute's reader.
template <class T>
int give(const std::vector<T>& values, std::int64_t wanted, std::int64_t* count, void* array) {
  if (count != nullptr) {
    *count = static_cast<std::int64_t>(values.size());
  }
  const std::size_t given =
      std::min(values.size(), static_cast<std::size_t>(std::max<std::int64_t>(wanted, 0)));
  if (array != nullptr && given != 0) {
    std::memcpy(array, values.data(), given * sizeof(T));
  }
  return kSuccess;
}

/// Fills descriptors that the caller made: `fill` for each, at most `total`.
template <class Fill>
int fill_descriptors(std::size_t total, std::int64_t wanted, std::int64_t* count, void* array,
                     Fill fill) {
  if (count != nullptr) {
    *count = static_cast<std::int64_t>(total);
  }
  auto* const handles = static_cast<void**>(array);
  for (std::size_t i = 0; handles != nullptr && i < total && static_cast<std::int64_t>(i) < wanted;
       ++i) {
    const DescriptorRef target = find(handles[i]);
    if (target == nullptr) {
      return kBadParam;
    }
    target->finalized = true;
    fill(*target, i);
  }
  return kSuccess;
}

int get_from_config(const BackendDescriptor& from, int name, std::int64_t wanted,
                    std::int64_t* count, void* array, bool& known) {
  const EngineConfig& config = *from.config;
  known = true;
  switch (name) {
    case kConfigEngine:
      return fill_descriptors(1, wanted, count, array, [&](BackendDescriptor& engine, std::size_t) {
        engine.config = config;
        engine.graph = from.graph;
      });
    case kConfigKnobs:
      return fill_descriptors(
          config.knobs.size(), wanted, count, array, [&](BackendDescriptor& knob, std::size_t i) {
            const auto& [type, value] = config.knobs[i];
            AttributeValue number{
                .type = kInt64, .count = 1, .bytes = std::vector<unsigned char>(8)};
            std::memcpy(number.bytes.data(), &value, 8);
            knob.attributes[kKnobValue] = number;
            number.type = kKnobTypeType;
            number.bytes.resize(4);
            std::memcpy(number.bytes.data(), &type, 4);
            knob.attributes[kKnobType] = number;
          });
    case kConfigSharedMemory:
      return give<std::int32_t>({config.shared_bytes}, wanted, count, array);
    case kEngineIndex:
      return give<std::int64_t>({config.engine}, wanted, count, array);
    case kEngineNumericalNotes:
      return give(config.numerical_notes, wanted, count, array);
    case kEngineBehaviourNotes:
      return give(config.behaviour_notes, wanted, count, array);
    default:
      known = false;
      return kSuccess;
  }
}

int get(const BackendDescriptor& from, int name, int type, std::int64_t wanted, std::int64_t* count,
        void* array) {
  if (from.type == kEngineHeuristics && name == kHeuristicsResults) {
    return fill_descriptors(from.results.size(), wanted, count, array,
                            [&](BackendDescriptor& config, std::size_t i) {
                              config.config = from.results[i];
                              config.graph = from.graph;
                            });
  }
  if (from.type == kExecutionPlan && name == kPlanWorkspace) {
    return give<std::int64_t>({from.workspace}, wanted, count, array);
  }
  if (from.type == kOperationGraph && name == kGraphEngines) {
    return give<std::int64_t>({1}, wanted, count, array);
  }
  if (from.config && (from.type == kEngine || from.type == kEngineConfig)) {
    bool known = false;
    const int status = get_from_config(from, name, wanted, count, array, known);
    if (known) {
      return status;
    }
  }
  const AttributeValue* const value = from.find(name);
  if (value == nullptr) {
    if (count != nullptr) {
      *count = 0;
    }
    return kSuccess;
  }
  if (value->type == kDescriptor) {
    return fill_descriptors(
        value->descriptors.size(), wanted, count, array,
        [&](BackendDescriptor& target, std::size_t i) { target = *value->descriptors[i]; });
  }
  if (count != nullptr) {
    *count = value->count;
  }
  if (array != nullptr && wanted > 0) {
    const std::size_t room = element_bytes(type) * static_cast<std::size_t>(wanted);
    std::memcpy(array, value->bytes.data(), std::min(room, value->bytes.size()));
  }
  return kSuccess;
}

}  // namespace

int run_plan(void* handle, void* plan) {
  std::int64_t bytes = 0;
  std::string name = "cudnn";
  {
    const std::lock_guard lock{mutex()};
    const DescriptorRef descriptor = find(plan);
    if (descriptor == nullptr || descriptor->graph == nullptr) {
      return kBadParam;
    }
    bytes = moved_bytes(*descriptor->graph);
  }
  return launch(handle, name, bytes);
}

const AttributeValue* BackendDescriptor::find(int name) const {
  const auto at = attributes.find(name);
  return at == attributes.end() ? nullptr : &at->second;
}

DescriptorRef BackendDescriptor::first(int name) const {
  const AttributeValue* const value = find(name);
  return value == nullptr || value->descriptors.empty() ? nullptr : value->descriptors.front();
}

std::vector<std::int64_t> BackendDescriptor::numbers(int name) const {
  std::vector<std::int64_t> result;
  if (const AttributeValue* const value = find(name)) {
    const std::size_t size = element_bytes(value->type);
    for (std::size_t at = 0; (size == 4 || size == 8) && at + size <= value->bytes.size();
         at += size) {
      std::int32_t narrow{};
      std::int64_t wide{};
      std::memcpy(size == 4 ? static_cast<void*>(&narrow) : static_cast<void*>(&wide),
                  &value->bytes[at], size);
      result.push_back(size == 4 ? narrow : wide);
    }
  }
  return result;
}

}  // namespace peakcast::capture::cudnn

using namespace peakcast::capture::cudnn;

PEAKCAST_EXPORT int cudnnBackendCreateDescriptor(int type, void** out) {
  const std::lock_guard lock{mutex()};
  auto made = std::make_shared<BackendDescriptor>();
  made->type = type;
  *out = made.get();
  alive()[made.get()] = std::move(made);
  return kSuccess;
}
PEAKCAST_EXPORT int cudnnBackendDestroyDescriptor(void* handle) {
  const std::lock_guard lock{mutex()};
  alive().erase(handle);
  return kSuccess;
}
PEAKCAST_EXPORT int cudnnBackendInitialize(void* handle) {
  const std::lock_guard lock{mutex()};
  if (const DescriptorRef descriptor = find(handle)) {
    *descriptor = BackendDescriptor{.type = descriptor->type};
    return kSuccess;
  }
  return kBadParam;
}
PEAKCAST_EXPORT int cudnnBackendSetAttribute(void* handle, int name, int type, std::int64_t count,
                                             const void* values) {
  const std::lock_guard lock{mutex()};
  const DescriptorRef descriptor = find(handle);
  if (descriptor == nullptr || count < 0 || (values == nullptr && count > 0)) {
    return kBadParam;
  }
  AttributeValue value{.type = type, .count = count};
  if (type == kDescriptor) {
    for (std::int64_t i = 0; i < count; ++i) {
      value.descriptors.push_back(find(static_cast<void* const*>(values)[i]));
      if (value.descriptors.back() == nullptr) {
        return kBadParam;
      }
    }
  } else {
    const auto* const bytes = static_cast<const unsigned char*>(values);
    value.bytes.assign(bytes, bytes + element_bytes(type) * static_cast<std::size_t>(count));
  }
  descriptor->attributes[name] = std::move(value);
  return kSuccess;
}
PEAKCAST_EXPORT int cudnnBackendFinalize(void* handle) {
  int status = kBadParam;
  {
    const std::lock_guard lock{mutex()};
    if (const DescriptorRef descriptor = find(handle)) {
      status = finalize(*descriptor);
      descriptor->finalized = status == kSuccess;
    }
  }
  peakcast::capture::settle_assumptions();
  return status;
}
PEAKCAST_EXPORT int cudnnBackendGetAttribute(void* handle, int name, int type, std::int64_t wanted,
                                             std::int64_t* count, void* array) {
  const std::lock_guard lock{mutex()};
  const DescriptorRef descriptor = find(handle);
  return descriptor == nullptr ? kBadParam : get(*descriptor, name, type, wanted, count, array);
}
PEAKCAST_EXPORT int cudnnBackendExecute(void* handle, void* plan, void* /*variant_pack*/) {
  return run_plan(handle, plan);
}
PEAKCAST_EXPORT int cudnnBackendPopulateCudaGraph(void* handle, void* plan, void* /*pack*/,
                                                  void* /*graph*/) {
  return run_plan(handle, plan);
}
PEAKCAST_EXPORT int cudnnBackendUpdateCudaGraph(void* /*handle*/, void* /*plan*/, void* /*pack*/,
                                                void* /*graph*/) {
  return kSuccess;
}
