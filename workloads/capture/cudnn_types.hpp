#pragma once

#include <cstddef>
#include <cstdint>

/// The little of cuDNN's binary interface that the emulated card and the planner need, written down
/// from NVIDIA's public documentation (cuDNN Backend API, release 9). Enums are plain ints.
namespace peakcast::capture::cudnn {

inline constexpr int kSuccess = 0;
inline constexpr int kNotInitialized = 1001;
inline constexpr int kBadParam = 2000;
inline constexpr int kNotSupported = 3000;

/// cudnnBackendDescriptorType_t: those that this library looks into; all others are only kept.
enum Descriptor : int {
  kEngine = 2,
  kEngineConfig = 3,
  kEngineHeuristics = 4,
  kExecutionPlan = 5,
  kKnobChoice = 7,
  kConvolutionForward = 10,
  kConvolutionFilter = 11,
  kConvolutionData = 12,
  kOperationGraph = 15,
  kVariantPack = 16,
  kTensor = 17,
  kDeviceProperties = 38,
};

/// cudnnBackendAttributeName_t.
enum Attribute : int {
  kHeuristicsMode = 200,
  kHeuristicsGraph = 201,
  kHeuristicsResults = 202,
  kHeuristicsMultiprocessors = 203,
  kHeuristicsDevice = 204,
  kConfigEngine = 300,
  kConfigKnobs = 302,
  kConfigSharedMemory = 304,
  kPlanHandle = 400,
  kPlanConfig = 401,
  kPlanWorkspace = 402,
  kPlanDevice = 407,
  kKnobType = 600,
  kKnobValue = 601,
  kGraphHandle = 800,
  kGraphOperations = 801,
  kGraphEngines = 802,
  kTensorType = 901,
  kTensorDimensions = 902,
  kEngineGraph = 1300,
  kEngineIndex = 1301,
  kEngineNumericalNotes = 1303,
  kEngineBehaviourNotes = 1305,
  kEngineMultiprocessors = 1306,
  kEngineDevice = 1307,
  kDeviceJson = 2702,
};

/// cudnnBackendAttributeType_t.
enum Type : int {
  kHandle = 0,
  kBoolean = 2,
  kInt64 = 3,
  kDouble = 5,
  kPointer = 6,
  kHeuristicsModeType = 8,
  kKnobTypeType = 9,
  kNumericalNote = 11,
  kDescriptor = 15,
  kBehaviourNote = 19,
  kInt32 = 23,
  kChar = 24,
  kFraction = 26,
};

/// Bytes of one element of an attribute of `type`; enums are ints.
[[nodiscard]] constexpr std::size_t element_bytes(int type) {
  switch (type) {
    case kBoolean:
    case kChar:
      return 1;
    case kHandle:
    case kInt64:
    case kDouble:
    case kPointer:
    case kDescriptor:
      return 8;
    case kFraction:
      return 16;
    default:
      return 4;
  }
}

}  // namespace peakcast::capture::cudnn
