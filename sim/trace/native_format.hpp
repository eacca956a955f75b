#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sim/core/error.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// peakcast's own format, file ending `.pkt`: everything that a Trace holds, small and fast to
/// read. Integers are little-endian; "varint" is 7 bits a byte, low first; "zigzag" maps signed to
/// unsigned (0, -1, 1, -2, …) before that.
///
///     file     = magic, u16 version (1), u16 zero, section…
///     magic    = 89 50 4B 54 0D 0A 1A 0A   (breaks where a transfer changes line ends or 8th bits)
///     section  = tag (4 characters), u32 raw size, u32 packed size, u32 CRC-32 over the 12 bytes
///                before it and the packed bytes, packed bytes: one zstd frame of the raw size
///
/// Raw sizes are at most 64 MiB: longer tables take several sections of one tag, in order. Sections
/// stand in this order; `END ` is last and empty, so that a cut shows.
///
/// | tag  | holds |
/// |---|---|
/// | HEAD | varints: flags (1 recording, 2 ops are derived, 4 labels, 8 times, 16 labels per entry,
/// 32 times per entry, 64 head lost, 128 entry per op), buffer slots, event slots, stream count,
/// each handle; source as text (varint length, bytes) | | STRS | texts | | RECD | framework and
/// settings as texts; limit and device total as varints (0: none, else + 1); final figures: count,
/// (name, zigzag value)…; segments: count, (address, size, stream, flags: 1 small pool, 2
/// expandable; blocks: count, (size, requested, flags: 1 allocated, 2 active)…)… | | EVTS | up to
/// 2^18 rows of the recorded entries, in columns (below) | | OPS_ | up to 2^18 ops in columns:
/// kind, flags (bytes); id, stream (varints); value (zigzag); if there are any: label (varint),
/// time (zigzag difference), entry (zigzag difference) | | MRKS | marks among derived ops: count,
/// (ops since the last, string, flags, zigzag time)… |
///
/// A column is a varint length in bytes, then its values; a section begins with its row count.
/// EVTS: `code` is a byte a row: 0 to 8 an Action, with address (zigzag difference to the last such
/// address), size and stream in columns of their own; 9: free_requested and free_completed, 10:
/// free_requested, 11: free_completed of the buffer whose slot is in the column `slot`. Slots are
/// given to alloc entries, the one that came free last first; the free repeats the allocation's
/// address, size and stream, so it needs none. Then label (varint) and time (zigzag difference) of
/// each entry, if there are any; 9 is two entries.
///
/// Ops that derive_program() makes from the entries are not stored. Reading gives back what was
/// written, exactly. The writer takes some 100 ns an entry, most of it zstd's.
[[nodiscard]] std::string native_bytes(const Trace& trace);

inline constexpr std::string_view kNativeMagic{"\x89PKT\r\n\x1a\n"};

struct NativeOptions {
  bool checksums{true};  ///< false: for fuzzing, which cannot guess them
};

/// Errors carry the byte offset of the section. What comes back is valid (see first_fault).
[[nodiscard]] Expected<Trace> read_native(std::string_view bytes, const std::string& name,
                                          const NativeOptions& options = {});

}  // namespace peakcast
