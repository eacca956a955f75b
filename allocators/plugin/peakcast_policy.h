/* A policy of your own for peakcast, in a shared library: `peakcast replay run.csv --policy
 * ./libmine.so`.
 *
 * Export one function, peakcast_policy(), that returns a table of yours. peakcast makes a heap for
 * each stream (or one for all, see `shared`) and asks it for blocks. What all policies need is done
 * outside: streams and events (a block comes back to you only when no stream uses it any more), the
 * books, the limit, and one retry of a failed request after every heap was asked to trim().
 *
 * A referee watches: a block over a live block, a block outside the memory that you hold, a driver
 * call on what is not yours end the run with a message, at that event. Addresses are those of a
 * simulated card: never touch what they point to.
 *
 * Plain C; sizes in bytes; a function that answers int answers 0 for success. The table's layout
 * changes only with PEAKCAST_POLICY_ABI.
 */
#ifndef PEAKCAST_POLICY_H
#define PEAKCAST_POLICY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PEAKCAST_POLICY_ABI 1

/* NOLINTBEGIN(readability-identifier-naming): as C names things */

/* The driver, as your heap sees it. Valid as long as the heap. */
typedef struct peakcast_driver {
  void* self;           /* pass it back as the first argument */
  uint64_t total;       /* the card's memory */
  uint64_t granularity; /* of the virtual-memory calls */

  /* cudaMalloc and cudaFree. Not 0: the card or the limit is full. */
  int (*acquire)(void* self, uint64_t size, uint64_t* address);
  void (*release)(void* self, uint64_t address);

  /* Virtual memory: address space, physical memory, and mapping one to the other
   * (cuMemAddressReserve, cuMemCreate, cuMemMap with cuMemSetAccess, and their opposites). */
  int (*reserve)(void* self, uint64_t size, uint64_t* address);
  void (*unreserve)(void* self, uint64_t address);
  int (*create)(void* self, uint64_t size, uint32_t* physical);
  void (*destroy)(void* self, uint32_t physical);
  void (*map)(void* self, uint64_t address, uint32_t physical);
  void (*unmap)(void* self, uint64_t address, uint64_t size);
} peakcast_driver;

/* What you hand out. `block` is a number of yours; it comes back in give(). */
typedef struct peakcast_grant {
  uint64_t address;
  uint64_t size; /* at least the request */
  uint32_t block;
} peakcast_grant;

typedef struct peakcast_policy_table {
  uint32_t abi;     /* PEAKCAST_POLICY_ABI */
  const char* name; /* for reports */
  int shared;       /* not 0: one heap serves all streams */

  /* A heap. `settings` is --alloc-conf verbatim, never null. Null: refused, with the reason in
   * `error` (at most `capacity` bytes, 0-terminated). `driver` outlives the heap. */
  void* (*make)(const peakcast_driver* driver, const char* settings, char* error, size_t capacity);
  void (*destroy)(void* heap);

  /* A block for `size` > 0. Not 0: nothing fits and the driver gives no more. */
  int (*take)(void* heap, uint64_t size, peakcast_grant* grant);
  /* `block` may be used again at once. */
  void (*give)(void* heap, uint32_t block);
  /* Return to the driver what can be returned. May be null. */
  void (*trim)(void* heap);
  /* Iteration `index` (from 0) begins. May be null. */
  void (*begin_iteration)(void* heap, int64_t index);
} peakcast_policy_table;

/* The one symbol that is looked up. */
const peakcast_policy_table* peakcast_policy(void);

/* NOLINTEND(readability-identifier-naming) */

#ifdef __cplusplus
}
#endif

#endif /* PEAKCAST_POLICY_H */
