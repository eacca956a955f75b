#include "sim/app/backend.hpp"

#include "allocators/pytorch/settings.hpp"

namespace peakcast::app {

bool asks_for_driver_pool(std::string_view alloc_conf, std::string_view release) {
  const auto version = pytorch::find_version(release);
  if (!version) {
    return false;
  }
  const auto settings = pytorch::parse_settings(alloc_conf, *version);
  return settings && settings->cuda_malloc_async;
}

}  // namespace peakcast::app
