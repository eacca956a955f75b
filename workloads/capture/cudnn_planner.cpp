// cudnn-planner DIRECTORY DEVICE: asks a cuDNN without a card.
//
// A process of its own, without the emulated card: cuDNN's own driver calls stay away from it, and
// what goes wrong in it leaves the program alone. `workloads/capture/cudnn_client.cpp` starts it.
// It loads a driver that has no card (libplanner-driver.so, beside it), DIRECTORY/libcudnn.so.9,
// makes a device of DEVICE, cuDNN's own JSON of a card's properties, says `ready VERSION`, and then
// answers what it reads (numbers in decimal, bytes in hex):
//
//   d ID TYPE                      makes a descriptor
//   a ID NAME TYPE COUNT HEX       sets an attribute
//   r ID NAME COUNT ID...          sets an attribute that holds descriptors
//   f ID                           finalizes
//   h GRAPH MODE MULTIPROCESSORS   heuristics: "0 CONFIG/ENGINE/NOTES/NOTES/SHARED/KNOBS ..."
//   e GRAPH ENGINE KNOBS           makes a configuration by hand: "0 CONFIG"
//   p CONFIG                       plans it: "0 WORKSPACE"
//
// `d`, `a`, `r`, `f` answer nothing but what goes wrong, at the next `s` ("0", or cuDNN's status).
// Source: cuDNN Backend API, release 9.8 and later (CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR).

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <dlfcn.h>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "workloads/capture/cudnn_types.hpp"

namespace {

using namespace peakcast::capture::cudnn;
using Handle = void*;

/// More results than any heuristic gives, and more knobs than any engine has.
constexpr std::int64_t kMostResults = 512;
constexpr std::int64_t kMostKnobs = 64;
constexpr std::int64_t kMostNotes = 32;

struct Library {
  int (*create)(int, Handle*){};
  int (*destroy)(Handle){};
  int (*finalize)(Handle){};
  int (*set)(Handle, int, int, std::int64_t, const void*){};
  int (*get)(Handle, int, int, std::int64_t, std::int64_t*, void*){};
  std::size_t (*version)(){};

  /// False, with a reason on stderr, where the library cannot be used.
  bool load(const std::string& directory, const std::string& driver) {
    // Stands for "libcuda.so.1" from here on: engines that are compiled when they are needed are
    // not offered without one.
    if (dlopen(driver.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      std::cerr << dlerror() << '\n';
      return false;
    }
    void* const library = dlopen((directory + "/libcudnn.so.9").c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (library == nullptr) {
      std::cerr << dlerror() << '\n';
      return false;
    }
    const auto find = [library](auto& function, const char* name) {
      void* const symbol = dlsym(library, name);
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
      return symbol != nullptr;
    };
    return find(create, "cudnnBackendCreateDescriptor") &&
           find(destroy, "cudnnBackendDestroyDescriptor") &&
           find(finalize, "cudnnBackendFinalize") && find(set, "cudnnBackendSetAttribute") &&
           find(get, "cudnnBackendGetAttribute") && find(version, "cudnnGetVersion");
  }
};

class Planner {
 public:
  explicit Planner(const Library& library) : cudnn_{library} {}

  int make_device(const std::string& json) {
    int status = cudnn_.create(kDeviceProperties, &device_);
    if (status == kSuccess) {
      const auto size = static_cast<std::int64_t>(json.size()) + 1;
      status = cudnn_.set(device_, kDeviceJson, kChar, size, json.c_str());
    }
    return status == kSuccess ? cudnn_.finalize(device_) : status;
  }

  /// The answer to a line, or "" where none is due.
  std::string answer(const std::string& line) {
    std::istringstream in{line};
    char verb{};
    in >> verb;
    switch (verb) {
      case 'd':
        make(in);
        return "";
      case 'a':
        set(in);
        return "";
      case 'r':
        set_descriptors(in);
        return "";
      case 'f':
        finalize(in);
        return "";
      case 's':
        return std::to_string(std::exchange(status_, kSuccess));
      case 'h':
        return heuristics(in);
      case 'e':
        return engine(in);
      case 'p':
        return plan(in);
      default:
        return std::to_string(kBadParam);
    }
  }

 private:
  void keep(int status) {
    if (status_ == kSuccess) {
      status_ = status;
    }
  }

  void make(std::istringstream& in) {
    std::int64_t id{};
    int type{};
    in >> id >> type;
    keep(cudnn_.create(type, &descriptors_[id]));
  }

  void set(std::istringstream& in) {
    std::int64_t id{};
    int name{};
    int type{};
    std::int64_t count{};
    std::string hex;
    in >> id >> name >> type >> count >> hex;
    std::vector<unsigned char> bytes(hex.size() / 2 + 16);
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
      std::from_chars(hex.data() + i, hex.data() + i + 2, bytes[i / 2], 16);
    }
    keep(cudnn_.set(descriptors_[id], name, type, count, bytes.data()));
  }

  void set_descriptors(std::istringstream& in) {
    std::int64_t id{};
    int name{};
    std::int64_t count{};
    in >> id >> name >> count;
    std::vector<Handle> handles;
    for (std::int64_t other{}; in >> other;) {
      handles.push_back(descriptors_[other]);
    }
    keep(cudnn_.set(descriptors_[id], name, kDescriptor, count, handles.data()));
  }

  void finalize(std::istringstream& in) {
    std::int64_t id{};
    in >> id;
    keep(cudnn_.finalize(descriptors_[id]));
  }

  std::string heuristics(std::istringstream& in) {
    std::int64_t graph{};
    int mode{};
    std::int32_t multiprocessors{};
    in >> graph >> mode >> multiprocessors;
    Handle heuristics{};
    int status = cudnn_.create(kEngineHeuristics, &heuristics);
    status = status != kSuccess
                 ? status
                 : cudnn_.set(heuristics, kHeuristicsGraph, kDescriptor, 1, &descriptors_[graph]);
    status = status != kSuccess
                 ? status
                 : cudnn_.set(heuristics, kHeuristicsMode, kHeuristicsModeType, 1, &mode);
    status = status != kSuccess
                 ? status
                 : cudnn_.set(heuristics, kHeuristicsDevice, kDescriptor, 1, &device_);
    if (multiprocessors != 0 && status == kSuccess) {
      status = cudnn_.set(heuristics, kHeuristicsMultiprocessors, kInt32, 1, &multiprocessors);
    }
    status = status != kSuccess ? status : cudnn_.finalize(heuristics);
    std::vector<Handle> found(kMostResults);
    for (Handle& config : found) {
      status = status != kSuccess ? status : cudnn_.create(kEngineConfig, &config);
    }
    std::int64_t count{};
    if (status == kSuccess) {
      status = cudnn_.get(heuristics, kHeuristicsResults, kDescriptor, kMostResults, &count,
                          found.data());
    }
    std::string text = std::to_string(status);
    for (std::int64_t i = 0; i < kMostResults; ++i) {
      if (status == kSuccess && i < count) {
        configs_[next_config_] = found[static_cast<std::size_t>(i)];
        text += ' ' + std::to_string(next_config_) + describe(configs_[next_config_]);
        ++next_config_;
      } else {
        cudnn_.destroy(found[static_cast<std::size_t>(i)]);
      }
    }
    cudnn_.destroy(heuristics);
    return text;
  }

  template <class T>
  std::string numbers(Handle from, int name, int type, std::int64_t most = 1) {
    std::vector<T> values(static_cast<std::size_t>(most));
    std::int64_t count{};
    if (cudnn_.get(from, name, type, most, &count, values.data()) != kSuccess) {
      return "";
    }
    std::string text;
    for (std::int64_t i = 0; i < std::min(count, most); ++i) {
      text += (i == 0 ? "" : ",") + std::to_string(values[static_cast<std::size_t>(i)]);
    }
    return text;
  }

  /// "/engine/numerical notes/behaviour notes/shared bytes/knob:value,..."
  std::string describe(Handle config) {
    Handle engine{};
    std::int64_t count{};
    cudnn_.create(kEngine, &engine);
    cudnn_.get(config, kConfigEngine, kDescriptor, 1, &count, &engine);
    std::string text = '/' + numbers<std::int64_t>(engine, kEngineIndex, kInt64) + '/' +
                       numbers<int>(engine, kEngineNumericalNotes, kNumericalNote, kMostNotes) +
                       '/' +
                       numbers<int>(engine, kEngineBehaviourNotes, kBehaviourNote, kMostNotes) +
                       '/' + numbers<std::int32_t>(config, kConfigSharedMemory, kInt32) + '/';
    cudnn_.destroy(engine);
    std::vector<Handle> knobs(kMostKnobs);
    for (Handle& knob : knobs) {
      cudnn_.create(kKnobChoice, &knob);
    }
    if (cudnn_.get(config, kConfigKnobs, kDescriptor, kMostKnobs, &count, knobs.data()) !=
        kSuccess) {
      count = 0;
    }
    for (std::int64_t i = 0; i < kMostKnobs; ++i) {
      const Handle knob = knobs[static_cast<std::size_t>(i)];
      if (i < count) {
        text += (i == 0 ? "" : ",") + numbers<int>(knob, kKnobType, kKnobTypeType) + ':' +
                numbers<std::int64_t>(knob, kKnobValue, kInt64);
      }
      cudnn_.destroy(knob);
    }
    return text;
  }

  std::string engine(std::istringstream& in) {
    std::int64_t graph{};
    std::int64_t index{};
    std::string knobs;
    in >> graph >> index >> knobs;
    Handle engine{};
    int status = cudnn_.create(kEngine, &engine);
    status = status != kSuccess
                 ? status
                 : cudnn_.set(engine, kEngineGraph, kDescriptor, 1, &descriptors_[graph]);
    status = status != kSuccess ? status : cudnn_.set(engine, kEngineIndex, kInt64, 1, &index);
    status =
        status != kSuccess ? status : cudnn_.set(engine, kEngineDevice, kDescriptor, 1, &device_);
    status = status != kSuccess ? status : cudnn_.finalize(engine);
    std::vector<Handle> choices;
    std::istringstream list{knobs};
    for (std::string item; status == kSuccess && std::getline(list, item, ',');) {
      const int type = std::stoi(item);
      const std::int64_t value = std::stoll(item.substr(item.find(':') + 1));
      choices.push_back(nullptr);
      cudnn_.create(kKnobChoice, &choices.back());
      cudnn_.set(choices.back(), kKnobType, kKnobTypeType, 1, &type);
      cudnn_.set(choices.back(), kKnobValue, kInt64, 1, &value);
      status = cudnn_.finalize(choices.back());
    }
    Handle config{};
    status = status != kSuccess ? status : cudnn_.create(kEngineConfig, &config);
    status =
        status != kSuccess ? status : cudnn_.set(config, kConfigEngine, kDescriptor, 1, &engine);
    if (status == kSuccess && !choices.empty()) {
      const auto count = static_cast<std::int64_t>(choices.size());
      status = cudnn_.set(config, kConfigKnobs, kDescriptor, count, choices.data());
    }
    status = status != kSuccess ? status : cudnn_.finalize(config);
    if (status != kSuccess) {
      return std::to_string(status);
    }
    configs_[next_config_] = config;
    return "0 " + std::to_string(next_config_++);
  }

  std::string plan(std::istringstream& in) {
    std::int64_t id{};
    in >> id;
    const auto config = configs_.find(id);
    if (config == configs_.end()) {
      return std::to_string(kBadParam);
    }
    Handle plan{};
    int status = cudnn_.create(kExecutionPlan, &plan);
    status = status != kSuccess ? status
                                : cudnn_.set(plan, kPlanConfig, kDescriptor, 1, &config->second);
    status = status != kSuccess ? status : cudnn_.set(plan, kPlanDevice, kDescriptor, 1, &device_);
    status = status != kSuccess ? status : cudnn_.finalize(plan);
    std::int64_t workspace{};
    std::int64_t count{};
    status = status != kSuccess ? status
                                : cudnn_.get(plan, kPlanWorkspace, kInt64, 1, &count, &workspace);
    cudnn_.destroy(plan);
    return std::to_string(status) + ' ' + std::to_string(workspace);
  }

  const Library& cudnn_;
  Handle device_{};
  int status_{kSuccess};
  std::map<std::int64_t, Handle> descriptors_{};
  std::map<std::int64_t, Handle> configs_{};
  std::int64_t next_config_{1};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: cudnn-planner DIRECTORY DEVICE\n";
    return 2;
  }
  Library library;
  const std::string self = argv[0];
  if (!library.load(argv[1], self.substr(0, self.rfind('/') + 1) + "libplanner-driver.so")) {
    return 2;
  }
  Planner planner{library};
  if (const int status = planner.make_device(argv[2]); status != kSuccess) {
    std::cerr << "the device: cuDNN answers " << status << '\n';
    return 2;
  }
  std::cout << "ready " << library.version() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    if (const std::string answer = planner.answer(line); !answer.empty()) {
      std::cout << answer << std::endl;
    }
  }
  return 0;
}
