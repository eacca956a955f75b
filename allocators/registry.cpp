#include "allocators/registry.hpp"

#include <array>
#include <utility>

#include "allocators/pytorch/caching_allocator.hpp"

namespace peakcast {
namespace {

using Made = Expected<std::unique_ptr<Allocator>>;

Made make_pytorch(Device& device, Streams& streams, const PolicyOptions& options) {
  Expected<pytorch::Version> version = pytorch::find_version(options.version);
  if (!version) {
    return version.error();
  }
  Expected<pytorch::Settings> settings = pytorch::parse_settings(options.alloc_conf, *version);
  if (!settings) {
    return settings.error();
  }
  if (device.spec().total > Bytes{std::int64_t{1} << 40}) {
    return invalid_input("the pytorch policy simulates cards of up to 1 TiB");
  }
  return std::unique_ptr<Allocator>{std::make_unique<pytorch::CachingAllocator>(
      device, streams,
      pytorch::CachingAllocator::Options{
          .version = *version, .settings = *settings, .limit = options.limit})};
}

constexpr std::array kPolicies{
    PolicyEntry{.name = "pytorch",
                .summary = "PyTorch's native caching allocator",
                .options = "version 2.5 to 2.11; alloc-conf as PYTORCH_CUDA_ALLOC_CONF",
                .source = "c10/cuda/CUDACachingAllocator.cpp, re-described; checked on recordings",
                .make = make_pytorch},
};

}  // namespace

std::span<const PolicyEntry> policies() { return kPolicies; }

const PolicyEntry* find_policy(std::string_view name) {
  for (const PolicyEntry& entry : kPolicies) {
    if (entry.name == name) {
      return &entry;
    }
  }
  return nullptr;
}

Expected<std::unique_ptr<Allocator>> make_policy(std::string_view spec, Device& device,
                                                 Streams& streams, PolicyOptions options) {
  const std::size_t at = spec.find('@');
  const std::string_view name = spec.substr(0, at);
  if (at != std::string_view::npos) {
    options.version = std::string{spec.substr(at + 1)};
  }
  const PolicyEntry* entry = find_policy(name);
  if (entry == nullptr) {
    std::string known;
    for (const PolicyEntry& policy : kPolicies) {
      known += (known.empty() ? "" : ", ") + std::string{policy.name};
    }
    return Error{ErrorCode::not_found,
                 "there is no policy '" + std::string{name} + "'; there are " + known,
                 std::nullopt};
  }
  return entry->make(device, streams, options);
}

}  // namespace peakcast
