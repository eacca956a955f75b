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

#ifdef __cplusplus
}
#endif
