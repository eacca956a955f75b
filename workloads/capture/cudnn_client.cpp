#include "workloads/capture/cudnn_client.hpp"

#include <array>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <spawn.h>
#include <sstream>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "workloads/capture/cudnn_types.hpp"

extern char** environ;

namespace peakcast::capture::cudnn {
namespace {

constexpr const char* kLibrary = "/libcudnn.so.9";
constexpr const char* kPlanner = "cudnn-planner";

/// Limits of a compute capability (NVIDIA, CUDA programming guide, "Technical specifications").
struct Limits {
  int capability{};  ///< 10 * major + minor
  int blocks{};      ///< a multiprocessor's
  int shared_optin{};
};
constexpr std::array<Limits, 9> kLimits{{{70, 32, 98304},
                                         {75, 16, 65536},
                                         {80, 32, 166912},
                                         {86, 16, 101376},
                                         {89, 24, 101376},
                                         {90, 32, 232448},
                                         {100, 32, 232448},
                                         {103, 32, 232448},
                                         {120, 24, 101376}}};

bool is_there(const std::string& directory) {
  struct stat info {};
  return stat((directory + kLibrary).c_str(), &info) == 0;
}

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

/// Called for each loaded library; keeps the folder of PyTorch's.
int keep_torch(dl_phdr_info* info, std::size_t /*size*/, void* result) {
  if (info->dlpi_name != nullptr && std::strstr(info->dlpi_name, "/libtorch_cuda.so") != nullptr) {
    *static_cast<std::string*>(result) = folder_of(info->dlpi_name);
    return 1;
  }
  return 0;
}

/// The environment without what makes a process one of the program's.
std::vector<std::string> planner_environment() {
  std::vector<std::string> result;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text{*variable};
    if (!text.starts_with("LD_PRELOAD=") && !text.starts_with("LD_LIBRARY_PATH=") &&
        !text.starts_with("CUDNN_LOG")) {
      result.emplace_back(text);
    }
  }
  return result;
}

std::vector<int> list_of(const std::string& text) {
  std::vector<int> result;
  std::istringstream in{text};
  for (std::string item; std::getline(in, item, ',');) {
    result.push_back(std::atoi(item.c_str()));
  }
  return result;
}

/// Of "id/engine/notes/notes/shared/knobs".
EngineConfig config_of(const std::string& text) {
  std::array<std::string, 6> parts;
  std::istringstream in{text};
  for (std::string& part : parts) {
    std::getline(in, part, '/');
  }
  EngineConfig config{.id = std::atoll(parts[0].c_str()),
                      .engine = std::atoll(parts[1].c_str()),
                      .numerical_notes = list_of(parts[2]),
                      .behaviour_notes = list_of(parts[3]),
                      .shared_bytes = std::atoi(parts[4].c_str())};
  std::istringstream knobs{parts[5]};
  for (std::string knob; std::getline(knobs, knob, ',');) {
    const std::size_t colon = knob.find(':');
    config.knobs.emplace_back(std::atoi(knob.c_str()), std::atoll(knob.c_str() + colon + 1));
  }
  return config;
}

}  // namespace

std::string device_json(const GpuDescription& gpu) {
  const int capability = gpu.spec.compute_major * 10 + gpu.spec.compute_minor;
  Limits limits = kLimits.front();
  for (const Limits& row : kLimits) {
    if (row.capability <= capability) {
      limits = row;
    }
  }
  nlohmann::ordered_json json;
  json["maxGridSize"] = {2147483647, 65535, 65535};
  json["maxBlockSize"] = {1024, 1024, 64};
  json["regsPerBlock"] = 65536;
  json["multiProcessorCount"] = gpu.multiprocessors;
  json["warpSize"] = 32;
  json["maxSharedMemoryPerBlock"] = 49152;
  json["maxSharedMemoryPerBlockOptin"] = limits.shared_optin;
  json["reservedSharedMemoryPerBlock"] = capability >= 80 ? 1024 : 0;
  json["maxRegistersPerSM"] = 65536;
  json["maxCtasPerSM"] = limits.blocks;
  json["maxThreadsPerBlock"] = 1024;
  json["maxThreadsPerSM"] = gpu.threads_per_multiprocessor;
  json["pciDeviceId"] = 0;
  json["isTccDriver"] = 0;
  json["supportCoopLaunch"] = 1;
  json["totalGlobalMem"] = gpu.spec.total.count();
  json["smClockRateKHz"] = 1980000;
  json["memClockRateKHz"] = 3201000;
  json["l2CacheSize"] = 62914560;
  json["cudaDeviceId"] = 0;
  json["deviceVer"] = capability * 10;
  json["driverVer"] = 13000;
  json["deviceName"] = gpu.name;
  return json.dump();
}

std::string library_directory() {
  if (const char* const named = std::getenv("PEAKCAST_CUDNN");
      named != nullptr && is_there(named)) {
    return named;
  }
  std::string torch;
  dl_iterate_phdr(keep_torch, &torch);
  for (const char* const place :
       {"/../../nvidia/cudnn/lib", "/../../nvidia/cudnn_cu13/lib", "/../../nvidia/cu13/lib"}) {
    if (!torch.empty() && is_there(torch + place)) {
      return torch + place;
    }
  }
  return "";
}

void Client::stop() {
  if (socket_ >= 0) {
    close(socket_);
  }
  socket_ = -1;
}

void Client::start() {
  owner_ = getpid();
  version_.reset();
  received_.clear();
  const std::string directory = library_directory();
  Dl_info self{};
  if (directory.empty() || dladdr(reinterpret_cast<const void*>(&library_directory), &self) == 0) {
    return;
  }
  const std::string program = folder_of(self.dli_fname) + '/' + kPlanner;
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return;
  }
  std::vector<std::string> environment = planner_environment();
  std::vector<char*> variables;
  for (std::string& variable : environment) {
    variables.push_back(variable.data());
  }
  variables.push_back(nullptr);
  std::array<std::string, 3> words{program, directory, device_};
  std::array<char*, 4> arguments{words[0].data(), words[1].data(), words[2].data(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  pid_t child{};
  const int failed =
      posix_spawn(&child, program.c_str(), &actions, nullptr, arguments.data(), variables.data());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  socket_ = ends[0];
  if (failed != 0) {
    stop();
    return;
  }
  if (const auto ready = ask(""); ready && ready->starts_with("ready ")) {
    version_ = std::atoll(ready->c_str() + std::strlen("ready "));
  } else {
    stop();
  }
}

std::optional<std::int64_t> Client::version() {
  if (owner_ != getpid()) {
    stop();
    start();
  }
  return version_;
}

std::optional<std::string> Client::ask(std::string_view lines) {
  while (!lines.empty()) {
    const ssize_t sent = ::send(socket_, lines.data(), lines.size(), MSG_NOSIGNAL);
    if (sent <= 0) {
      return std::nullopt;
    }
    lines.remove_prefix(static_cast<std::size_t>(sent));
  }
  for (;;) {
    if (const std::size_t end = received_.find('\n'); end != std::string::npos) {
      std::string line = received_.substr(0, end);
      received_.erase(0, end + 1);
      return line;
    }
    std::array<char, 65536> buffer{};
    const ssize_t got = read(socket_, buffer.data(), buffer.size());
    if (got <= 0) {
      return std::nullopt;
    }
    received_.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

int Client::send(const std::string& lines) {
  const auto answer = ask(lines + "s\n");
  return answer ? std::atoi(answer->c_str()) : kNotInitialized;
}

std::vector<EngineConfig> Client::heuristics(std::int64_t graph, int mode, int multiprocessors,
                                             int& status) {
  const auto answer = ask("h " + std::to_string(graph) + ' ' + std::to_string(mode) + ' ' +
                          std::to_string(multiprocessors) + '\n');
  std::istringstream in{answer.value_or(std::to_string(kNotInitialized))};
  in >> status;
  std::vector<EngineConfig> result;
  for (std::string config; in >> config;) {
    result.push_back(config_of(config));
  }
  return result;
}

std::optional<std::int64_t> Client::configuration(const std::string& what, int& status) {
  const auto answer = ask("e " + what + '\n');
  std::istringstream in{answer.value_or(std::to_string(kNotInitialized))};
  std::int64_t id{};
  in >> status >> id;
  return status == kSuccess ? std::optional{id} : std::nullopt;
}

std::optional<std::int64_t> Client::workspace(std::int64_t config, int& status) {
  const auto answer = ask("p " + std::to_string(config) + '\n');
  std::istringstream in{answer.value_or(std::to_string(kNotInitialized))};
  std::int64_t bytes{};
  in >> status >> bytes;
  return status == kSuccess ? std::optional{bytes} : std::nullopt;
}

}  // namespace peakcast::capture::cudnn
