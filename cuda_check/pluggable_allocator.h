#pragma once

/* The functions of libpeakcast_allocator, which torch.cuda.memory.CUDAPluggableAllocator loads. C,
 * so that ctypes and any framework can call them. Thread safe. */

#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

/* Everything else in the library stays hidden: frameworks bring libraries of the same names. */
#define PEAKCAST_EXPORT __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* Chooses what runs: before the first allocation, or the defaults are in force (policy "pytorch",
 * no settings, no limit). `policy` is a name as on the command line, `alloc_conf` may be null,
 * `limit_bytes` below 0 means none. Checks the name and the settings at once: 0, or 2 and the
 * reason in `message` (cut to `message_size`, always terminated). */
PEAKCAST_EXPORT int peakcast_configure(const char* policy, const char* alloc_conf,
                                       int64_t limit_bytes, char* message, size_t message_size);

/* The pair that CUDAPluggableAllocator is made with. Out of memory throws a C++ exception whose
 * text begins with "CUDA out of memory": the caller uses what it gets without a look at it, so a
 * null pointer would be written through. A size of 0 gives null. */
PEAKCAST_EXPORT void* peakcast_malloc(size_t size, int device, cudaStream_t stream);
PEAKCAST_EXPORT void peakcast_free(void* pointer, size_t size, int device, cudaStream_t stream);

/* Hooks: set_record_stream_fn, set_reset_fn (empty_cache), set_memory_fraction_fn, set_init_fn. */
PEAKCAST_EXPORT void peakcast_record_stream(void* pointer, cudaStream_t stream);
PEAKCAST_EXPORT void peakcast_reset(void);
PEAKCAST_EXPORT void peakcast_memory_fraction(double fraction, int device);
PEAKCAST_EXPORT void peakcast_init(int device_count);

/* The policy's books as JSON text. Returns the length without the terminator; writes at most `size`
 * bytes, terminator included. 0 when the device has made no allocation yet. */
PEAKCAST_EXPORT size_t peakcast_statistics(int device, char* text, size_t size);

/* What follows is for torch_allocator.cpp, which makes a whole allocator of PyTorch's of it. */

/* A private pool as PyTorch names it; {0, 0} is none. */
struct peakcast_pool {
  uint64_t first;
  uint64_t second;
};

/* As peakcast_malloc, from a pool if somebody has retained it. Out of memory is null and PyTorch's
 * own words in `message` (cut to `message_size`, always terminated). size > 0. */
PEAKCAST_EXPORT void* peakcast_try_malloc(size_t size, int device, cudaStream_t stream,
                                          struct peakcast_pool pool, char* message,
                                          size_t message_size);
PEAKCAST_EXPORT void peakcast_pool_retain(int device, struct peakcast_pool pool);
PEAKCAST_EXPORT void peakcast_pool_release(int device, struct peakcast_pool pool);
PEAKCAST_EXPORT int64_t peakcast_pool_users(int device, struct peakcast_pool pool);
/* Between the two nothing of ours gets into a graph that is captured. They nest. */
PEAKCAST_EXPORT void peakcast_capture_begin(int device);
PEAKCAST_EXPORT void peakcast_capture_end(int device);

/* A level through time; allocated and freed are the sums of its ups and downs. */
struct peakcast_level {
  int64_t current, peak, allocated, freed;
};
/* The books of the policy and its pools together: bytes, and two counts. */
struct peakcast_books {
  struct peakcast_level requested, allocated, active, reserved, inactive_split;
  struct peakcast_level segments, allocations;
  int64_t alloc_retries, ooms, syncs, device_allocs, device_frees;
};
/* All zero when the device has made no allocation yet. */
PEAKCAST_EXPORT void peakcast_get_books(int device, struct peakcast_books* books);
PEAKCAST_EXPORT void peakcast_reset_peaks(int device);
PEAKCAST_EXPORT void peakcast_reset_totals(int device);

/* The heap as it is: each segment, then its blocks, ascending. */
struct peakcast_segment {
  uint64_t address, size;
  cudaStream_t stream;
  int expandable, small;
  struct peakcast_pool pool;
};
struct peakcast_block {
  uint64_t address, size, requested;
  int allocated, pending;
};
PEAKCAST_EXPORT void peakcast_visit(int device,
                                    void (*segment)(void*, const struct peakcast_segment*),
                                    void (*block)(void*, const struct peakcast_block*),
                                    void* context);

/* Calls `heard` with what happens, in the thread in which it does and under the device's lock: it
 * must not call back. `action` is a name of PyTorch's trace entries. Null ends it. */
struct peakcast_event {
  int device;
  const char* action;
  uint64_t address, size;
  cudaStream_t stream;
};
PEAKCAST_EXPORT void peakcast_listen(void (*heard)(void*, const struct peakcast_event*),
                                     void* context);

#ifdef __cplusplus
}
#endif
