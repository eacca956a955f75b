/* A plug-in that breaks its promise: its third block lies over its second. For tests of the
 * referee. With the settings "outside" the first block lies where it holds nothing; with "release"
 * it gives back what it never had. */
#include <stdlib.h>
#include <string.h>

#include "allocators/plugin/peakcast_policy.h"

typedef struct {
  const peakcast_driver* driver;
  uint64_t base;
  uint32_t count;
  int outside, release;
} heap;

static void* make(const peakcast_driver* driver, const char* settings, char* error,
                  size_t capacity) {
  (void)error;
  (void)capacity;
  heap* h = calloc(1, sizeof *h);
  h->driver = driver;
  h->outside = strcmp(settings, "outside") == 0;
  h->release = strcmp(settings, "release") == 0;
  return h;
}

static int take(void* self, uint64_t size, peakcast_grant* grant) {
  heap* h = self;
  if (h->base == 0 && h->driver->acquire(h->driver->self, (uint64_t)1024 << 20, &h->base) != 0)
    return 1;
  if (h->release) h->driver->release(h->driver->self, 4096);
  grant->address =
      h->outside ? 4096 : h->base + (h->count < 2 ? h->count : 1) * ((uint64_t)256 << 20);
  grant->size = size;
  grant->block = h->count++;
  return 0;
}

static void give(void* self, uint32_t block) {
  (void)self;
  (void)block;
}

const peakcast_policy_table* peakcast_policy(void) {
  static const peakcast_policy_table table = {.abi = PEAKCAST_POLICY_ABI,
                                              .name = "overlapping",
                                              .make = make,
                                              .destroy = free,
                                              .take = take,
                                              .give = give};
  return &table;
}
