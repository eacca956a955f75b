#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sim/core/error.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// peakcast's own format, file ending `.pkt`: everything that a Trace holds, small and fast to
/// read. Its bytes are described in sim/trace/FORMAT.md. Ops that derive_program() makes from the
/// entries are not stored; reading gives back what was written, exactly. The writer takes some
/// 100 ns an entry, most of it zstd's.
[[nodiscard]] std::string native_bytes(const Trace& trace);

inline constexpr std::string_view kNativeMagic{"\x89PKT\r\n\x1a\n"};

struct NativeOptions {
  bool checksums{true};          ///< false: for fuzzing, which cannot guess them
  Bytes most_memory{INT64_MAX};  ///< what would take more is refused
};

/// Errors carry the byte offset of the section. What comes back is valid (see first_fault).
[[nodiscard]] Expected<Trace> read_native(std::string_view bytes, const std::string& name,
                                          const NativeOptions& options = {});

}  // namespace peakcast
