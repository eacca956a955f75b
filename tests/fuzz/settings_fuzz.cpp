#include <cstddef>
#include <cstdint>
#include <string_view>

#include "allocators/policy.hpp"
#include "allocators/policy_list.hpp"
#include "allocators/pytorch/settings.hpp"
#include "sim/core/check.hpp"
#include "sim/core/memory_limit.hpp"

/// Bytes as PyTorch's settings string, in every release, as a list of policies, and as a limit.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace peakcast;
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  for (const pytorch::Version& version : pytorch::versions()) {
    static_cast<void>(pytorch::parse_settings(bytes, version));
  }
  for (const PolicyName& name : policy_list(bytes)) {
    check(PolicyName::parse(name.text()).text() == name.text(), "a name is written as it is read");
  }
  constexpr Bytes kCard{std::int64_t{80} << 30};
  const auto limit = MemoryLimit::parse(bytes);
  check(!limit || limit->of(kCard) >= Bytes{}, "a limit below nothing");
  return 0;
}
