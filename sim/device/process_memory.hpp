#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>

#include "sim/core/units.hpp"

namespace peakcast {

/// Ranges of addresses that neither overlap nor touch: start -> size.
using Ranges = std::map<std::uint64_t, std::uint64_t>;
/// Adds a range, joined with those it touches; the joined range's size.
std::uint64_t add_range(Ranges& ranges, std::uint64_t start, std::uint64_t size);

/// The part of a process's address space that mmap gives out: on Linux a mapping goes to the top of
/// the highest gap that holds it. Source: Linux, mm/mmap.c (vm_unmapped_area, top-down).
class AddressSpace {
 public:
  /// All of [bottom, top) is free.
  AddressSpace(Address bottom, Address top);
  /// Whole pages of 4 KiB; nullopt: no gap is large enough. O(gaps above it).
  [[nodiscard]] std::optional<Address> map(Bytes length);
  /// A mapping that begins at a multiple of `alignment`, made as the CUDA driver makes its own:
  /// `alignment` less a page is mapped on top, and what is over on both sides goes back.
  [[nodiscard]] std::optional<Address> map_aligned(Bytes length, Bytes alignment);
  void unmap(Address start, Bytes length);

 private:
  Ranges gaps_{};
};

/// glibc's malloc as far as it maps: a large block is a mapping of its own, which free() gives
/// back; a small one lives in the heap, which is elsewhere. What counts as large grows: freeing a
/// mapped block of at most 32 MiB makes its size the new threshold. Source: glibc 2.39,
/// malloc/malloc.c (sysmalloc, munmap_chunk, DEFAULT_MMAP_THRESHOLD_MAX); PyTorch allocates with
/// posix_memalign(64) (c10/core/impl/alloc_cpu.cpp).
class HostHeap {
 public:
  void allocate(AddressSpace& space, std::uint32_t buffer, Bytes size);
  /// Nothing happens for a buffer that is not mapped.
  void free(AddressSpace& space, std::uint32_t buffer);

 private:
  struct Mapping {
    Address start{};
    Bytes length{};
  };
  std::unordered_map<std::uint32_t, Mapping> mappings_{};  // by buffer; never iterated
  Bytes mapped_{};
  /// Chunks from here on are mapped. By the time that a model is built, the import of PyTorch has
  /// freed mapped blocks of over 3 MiB, but none of 4 (measured, PyTorch 2.11.0).
  Bytes threshold_{4 << 20};
};

}  // namespace peakcast
