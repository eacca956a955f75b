#include "workloads/capture/values_hooks.hpp"

#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <vector>

namespace peakcast::capture {
namespace {

/// Copies of at most this many bytes are kept, by where they went.
constexpr std::size_t kKept = 1 << 16;

/// What the host last copied to an address: comes back for that very address and size.
std::unordered_map<const void*, std::vector<unsigned char>>& kept() {
  static auto* const map = new std::unordered_map<const void*, std::vector<unsigned char>>;
  return *map;
}

}  // namespace

void values_copied_to_card(void* card, const void* host, std::size_t size) {
  if (size <= kKept) {
    const auto* const bytes = static_cast<const unsigned char*>(host);
    kept()[card].assign(bytes, bytes + size);
  } else {
    kept().erase(card);
  }
}

void values_copied_to_host(void* host, const void* card, std::size_t size,
                           std::string_view last_kernel) {
  const auto found = kept().find(card);
  if (found != kept().end() && found->second.size() == size) {
    std::memcpy(host, found->second.data(), size);
    return;
  }
  std::memset(host, 0, size);
  // all() of a mask is true, any() is false: right for dense data.
  if (size == 1 && last_kernel.find("and_kernel") != std::string_view::npos) {
    *static_cast<unsigned char*>(host) = 1;
  }
}

void values_copied_on_card(void* to, const void* from, std::size_t size) {
  const auto found = kept().find(from);
  if (found != kept().end() && found->second.size() == size) {
    kept()[to] = found->second;
  } else {
    kept().erase(to);
  }
}

void values_set(void* card, int /*byte*/, std::size_t /*size*/) { kept().erase(card); }
void values_launched(std::string_view /*kernel*/, const Dim3& /*grid*/, const Dim3& /*block*/,
                     void** /*arguments*/) {}
void values_forgotten(void* card, std::size_t /*size*/) { kept().erase(card); }

}  // namespace peakcast::capture
