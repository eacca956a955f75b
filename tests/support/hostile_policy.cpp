// A plug-in that does to its process what its settings say, at its third request, unless they say
// another place: "exit", "_exit", "crash", "throw 42", "throw error", "throw bad_alloc",
// "destroy exit", "destroy throw", "make exit", "map wrap", "map odd". Without any it is a small
// policy that works.
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <unistd.h>

#include "allocators/plugin/peakcast_policy.h"

namespace {

constexpr std::uint64_t kPage = 2 << 20;

struct Heap {
  const peakcast_driver* driver{};
  std::string settings{};
  std::uint32_t count{};
};

void misbehave(Heap& heap) {
  const peakcast_driver& driver = *heap.driver;
  const std::string& how = heap.settings;
  if (how == "exit") {
    std::exit(0);  // NOLINT(concurrency-mt-unsafe): that is the point
  } else if (how == "_exit") {
    ::_exit(0);
  } else if (how == "crash") {
    std::abort();
  } else if (how == "throw 42") {
    throw 42;  // NOLINT(hicpp-exception-baseclass)
  } else if (how == "throw error") {
    throw std::runtime_error{"of its own"};
  } else if (how == "throw bad_alloc") {
    throw std::bad_alloc{};
  } else if (how == "map wrap" || how == "map odd") {
    std::uint64_t address = 0;
    std::uint32_t physical = 0;
    driver.reserve(driver.self, 2 * kPage, &address);
    driver.create(driver.self, kPage, &physical);
    driver.map(driver.self, how == "map odd" ? address + 512 : 0 - kPage, physical);
  }
}

void* make(const peakcast_driver* driver, const char* settings, char* /*error*/, size_t /*size*/) {
  if (std::strcmp(settings, "make exit") == 0) {
    std::exit(0);  // NOLINT(concurrency-mt-unsafe)
  }
  return new Heap{driver, settings};
}

void destroy(void* self) {
  auto* const heap = static_cast<Heap*>(self);
  if (heap->settings == "destroy exit") {
    std::exit(0);  // NOLINT(concurrency-mt-unsafe)
  }
  if (heap->settings == "destroy throw") {
    throw std::runtime_error{"at its end"};
  }
  delete heap;
}

int take(void* self, std::uint64_t size, peakcast_grant* grant) {
  Heap& heap = *static_cast<Heap*>(self);
  if (heap.count == 2) {
    misbehave(heap);
  }
  if (heap.driver->acquire(heap.driver->self, size, &grant->address) != 0) {
    return 1;
  }
  grant->size = size;
  grant->block = heap.count++;
  return 0;
}

void give(void* /*self*/, std::uint32_t /*block*/) {}

}  // namespace

extern "C" const peakcast_policy_table* peakcast_policy() {
  static const peakcast_policy_table kTable{.abi = PEAKCAST_POLICY_ABI,
                                            .name = "hostile",
                                            .shared = 0,
                                            .make = make,
                                            .destroy = destroy,
                                            .take = take,
                                            .give = give,
                                            .trim = nullptr,
                                            .begin_iteration = nullptr};
  return &kTable;
}
