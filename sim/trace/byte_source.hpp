#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/error.hpp"
#include "sim/core/units.hpp"

namespace peakcast {

/// A stream of bytes that is read once, front to back.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Fills the front of `into` and says how much; 0 only at the end (or when `into` is empty).
  [[nodiscard]] virtual Expected<std::size_t> read(std::span<char> into) = 0;
};

/// A file's bytes as they are; "-" is stdin. A directory or a missing file is an error.
[[nodiscard]] Expected<std::unique_ptr<ByteSource>> open_file(const std::string& path);
/// Borrowed memory.
[[nodiscard]] std::unique_ptr<ByteSource> open_memory(std::string_view bytes);

/// A window over a source's bytes, decompressed when they begin as gzip or zstd do (one layer).
/// Truncated or corrupt compressed data is an error, also at the very end.
class Window {
 public:
  /// A few kilobytes may stand for terabytes, so what an input may take is bounded by what it
  /// holds: kFreeMemory, and kMemoryPerByte for each byte that was read so far (compressed, as it
  /// comes). Real traces take less than a tenth of that. `most`, when given, takes its place.
  static constexpr std::int64_t kFreeMemory = std::int64_t{1} << 28;
  static constexpr std::int64_t kMemoryPerByte = 4096;
  static Expected<Window> open(std::unique_ptr<ByteSource> source, std::string name,
                               std::optional<Bytes> most = std::nullopt);

  /// What may be held in memory for the bytes that were read so far.
  [[nodiscard]] Bytes most_memory() const;
  /// The fault of an input that would take more.
  [[nodiscard]] Error takes_too_much() const;

  /// Bytes that were read and not yet skipped. Valid until the next call of fill().
  [[nodiscard]] std::string_view bytes() const { return {buffer_.data() + begin_, end_ - begin_}; }
  void skip(std::size_t count) {
    begin_ += count;
    offset_ += count;
  }
  /// Tries to have at least `count` bytes in the window; fewer only at the end. Amortised O(1) per
  /// byte.
  [[nodiscard]] Expected<Ok> fill(std::size_t count);
  /// Everything that is left, in memory.
  [[nodiscard]] Expected<Ok> fill_all();
  [[nodiscard]] bool at_end() const { return ended_; }  ///< nothing beyond bytes()
  /// Of bytes()[0] in the decoded stream.
  [[nodiscard]] std::uint64_t offset() const { return offset_; }
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  Window(std::unique_ptr<ByteSource> source, std::string name, std::optional<Bytes> most,
         std::unique_ptr<std::int64_t> read)
      : source_{std::move(source)}, name_{std::move(name)}, most_{most}, read_{std::move(read)} {}

  std::unique_ptr<ByteSource> source_;
  std::string name_;
  std::optional<Bytes> most_;
  std::unique_ptr<std::int64_t> read_;  // bytes, as they come; the source counts them
  std::vector<char> buffer_{};
  std::size_t begin_{};
  std::size_t end_{};
  std::uint64_t offset_{};
  bool ended_{};
};

/// Lines of a window, counted from 1. A line takes up to kLineMemory of a trace's memory, which
/// counts against the window's.
class LineReader {
 public:
  static constexpr std::int64_t kLineMemory = 128;
  explicit LineReader(Window& window) : window_{window} {}
  /// The next line without its end (line feed, or carriage return and line feed). False at the end.
  /// A last line without an end is an error, for the file may be cut off; so is a line of more than
  /// 1 MiB.
  [[nodiscard]] Expected<bool> next(std::string_view& line);
  [[nodiscard]] std::int64_t number() const { return number_; }  ///< of the last line
  /// An error at the last line, with `column` from 1 (0: the whole line).
  [[nodiscard]] Error error(std::string message, std::int64_t column = 0) const {
    return invalid_input(std::move(message), InputPosition{window_.name(), number_, column});
  }
  [[nodiscard]] Error error_at_line(std::int64_t line, std::string message) const {
    return invalid_input(std::move(message), InputPosition{window_.name(), line});
  }

 private:
  Window& window_;
  std::int64_t number_{};
};

/// Bytes as a file holds them, compressed when `path` ends in .gz or .zst. Deterministic: no time
/// and no name in gzip's header.
[[nodiscard]] Expected<std::string> compressed_for(const std::string& path, std::string bytes);
[[nodiscard]] std::string zstd_compressed(std::string_view bytes, int level);
/// Exactly `size` bytes out of one zstd frame, or nothing.
[[nodiscard]] bool zstd_decompress(std::string_view frame, std::span<char> into);

struct FileToWrite {
  std::string path{};  ///< "-": stdout
  std::string_view bytes{};
};

/// Writes all of them or none, each by way of a temporary file beside it: whoever reads sees an old
/// file or the new one, never half, whatever ends this process. A link stays, and what it points to
/// is replaced; a file keeps its mode, a new one has what the umask leaves. A regular file that is
/// there is an error unless `overwrite`.
[[nodiscard]] Expected<Ok> write_files(std::span<const FileToWrite> files, bool overwrite);
[[nodiscard]] Expected<Ok> write_file(const std::string& path, std::string_view bytes,
                                      bool overwrite);
/// Whether write_file() would begin: to be asked before long work.
[[nodiscard]] Expected<Ok> may_write(const std::string& path, bool overwrite);

/// Takes away the temporary files of writes that are under way. For a signal's handler: it calls
/// nothing but unlink().
void remove_unfinished_files();

}  // namespace peakcast
