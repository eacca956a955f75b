#pragma once

#include <cstddef>
#include <cstdint>

/// The little of CUDA's binary interface that the emulated card needs, written down from NVIDIA's
/// public documentation (CUDA Runtime API and Driver API, releases 12.4 and 13.0), so that the
/// build needs no toolkit. Handles are plain pointers, enums plain ints.
namespace peakcast::capture {

// cudaError_t and CUresult; the two agree where both have a number.
inline constexpr int kSuccess = 0;
inline constexpr int kInvalidValue = 1;
inline constexpr int kOutOfMemory = 2;
inline constexpr int kInvalidDevice = 101;
inline constexpr int kInvalidHandle = 400;
inline constexpr int kNotReady = 600;
inline constexpr int kPeerAlreadyEnabled = 704;
inline constexpr int kNotSupported = 801;
inline constexpr int kCaptureInvalidated = 901;
inline constexpr int kNotFound = 500;

struct Dim3 {
  unsigned x{1}, y{1}, z{1};
};

enum MemcpyKind : int { kHostToHost, kHostToDevice, kDeviceToHost, kDeviceToDevice, kByAddress };

struct PointerAttributes {
  int type;  ///< 0 unregistered, 1 host, 2 device, 3 managed
  int device;
  void* device_pointer;
  void* host_pointer;
};

struct FunctionAttributes {
  std::size_t shared_bytes;
  std::size_t constant_bytes;
  std::size_t local_bytes;
  int max_threads_per_block;
  int registers;
  int ptx_version;
  int binary_version;
  int cache_mode;
  int max_dynamic_shared_bytes;
  int preferred_carveout;
};

struct LaunchConfig {
  Dim3 grid;
  Dim3 block;
  std::size_t shared_bytes;
  void* stream;
  void* attributes;
  unsigned attribute_count;
};

/// CUlaunchConfig, of cuLaunchKernelEx.
struct DriverLaunchConfig {
  Dim3 grid;
  Dim3 block;
  unsigned shared_bytes;
  void* stream;
  void* attributes;
  unsigned attribute_count;
};

/// A member that only the other release's layout has.
template <int kTag>
struct Absent {};
template <bool kThere, int kTag, class T>
struct OnlyIfType {
  using Type = T;
};
template <int kTag, class T>
struct OnlyIfType<false, kTag, T> {
  using Type = Absent<kTag>;
};
template <bool kThere, int kTag, class T = int>
using OnlyIf = typename OnlyIfType<kThere, kTag, T>::Type;

/// cudaDeviceProp of CUDA 12 or 13: 13 left seven members out.
template <int kRelease>
struct DeviceProperties {
  static constexpr bool kOld = kRelease == 12;
  char name[256];
  unsigned char uuid[16];
  char luid[8];
  unsigned luid_node_mask;
  std::size_t total_memory;
  std::size_t shared_per_block;
  int registers_per_block;
  int warp_size;
  std::size_t memory_pitch;
  int max_threads_per_block;
  int max_threads_dim[3];
  int max_grid[3];
  [[no_unique_address]] OnlyIf<kOld, 0> clock_rate;
  std::size_t constant_memory;
  int major;
  int minor;
  std::size_t texture_alignment;
  std::size_t texture_pitch_alignment;
  [[no_unique_address]] OnlyIf<kOld, 1> device_overlap;
  int multiprocessors;
  [[no_unique_address]] OnlyIf<kOld, 2> kernel_timeout;
  int integrated;
  int can_map_host;
  [[no_unique_address]] OnlyIf<kOld, 3> compute_mode;
  int textures_1d[2];
  [[no_unique_address]] OnlyIf<kOld, 4> texture_1d_linear;
  int textures_and_surfaces[37];
  std::size_t surface_alignment;
  int concurrent_kernels;
  int ecc;
  int pci_bus;
  int pci_device;
  int pci_domain;
  int tcc;
  int async_engines;
  int unified_addressing;
  [[no_unique_address]] OnlyIf<kOld, 5> memory_clock_rate;
  int memory_bus_width;
  int l2_cache;
  int persisting_l2;
  int max_threads_per_multiprocessor;
  int stream_priorities;
  int global_l1;
  int local_l1;
  std::size_t shared_per_multiprocessor;
  int registers_per_multiprocessor;
  int managed_memory;
  int multi_gpu_board;
  int multi_gpu_board_group;
  int host_native_atomics;
  [[no_unique_address]] OnlyIf<kOld, 6> single_to_double_ratio;
  int pageable_memory_access;
  int concurrent_managed_access;
  int compute_preemption;
  int host_pointer_for_registered;
  int cooperative_launch;
  [[no_unique_address]] OnlyIf<kOld, 7> cooperative_multi_device;
  std::size_t shared_per_block_optin;
  int pageable_uses_host_tables;
  int direct_managed_access;
  int max_blocks_per_multiprocessor;
  int access_policy_window;
  std::size_t reserved_shared_per_block;
  int host_register;
  int sparse_arrays;
  int host_register_read_only;
  int timeline_semaphore;
  int memory_pools;
  int rest[71];
};
// Offsets that g++ gives the members of the toolkits' own headers.
static_assert(offsetof(DeviceProperties<13>, memory_pools) == 720 &&
              sizeof(DeviceProperties<13>) == 1008);
static_assert(offsetof(DeviceProperties<12>, memory_pools) == 744 &&
              sizeof(DeviceProperties<12>) == 1032);

}  // namespace peakcast::capture
