#include "sim/trace/byte_source.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fcntl.h>
#include <ios>
#include <iterator>
#include <optional>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <zstd.h>

#include <boost/iostreams/device/back_inserter.hpp>
#include <boost/iostreams/filter/gzip.hpp>
#include <boost/iostreams/filtering_stream.hpp>
#include <boost/iostreams/filtering_streambuf.hpp>
#include <boost/iostreams/write.hpp>
#include <fmt/format.h>

#include "sim/core/size_text.hpp"

namespace peakcast {
namespace {

namespace io = boost::iostreams;

constexpr std::size_t kChunk = std::size_t{1} << 18;
constexpr std::string_view kGzipMagic{"\x1f\x8b"};
constexpr std::string_view kZstdMagic{"\x28\xb5\x2f\xfd"};

Error io_error(const std::string& path, int code) {
  return Error{ErrorCode::io, fmt::format("{}: {}", path, std::strerror(code)), std::nullopt};
}

class FileSource final : public ByteSource {
 public:
  FileSource(int file, std::string path) : file_{file}, path_{std::move(path)} {}
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;
  ~FileSource() override {
    if (file_ != STDIN_FILENO) {
      ::close(file_);
    }
  }
  Expected<std::size_t> read(std::span<char> into) override {
    for (;;) {
      const ssize_t count = ::read(file_, into.data(), into.size());
      if (count >= 0) {
        return static_cast<std::size_t>(count);
      }
      if (errno != EINTR) {
        return io_error(path_, errno);
      }
    }
  }

 private:
  int file_;
  std::string path_;
};

class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::string_view bytes) : bytes_{bytes} {}
  Expected<std::size_t> read(std::span<char> into) override {
    const std::size_t count = std::min(into.size(), bytes_.size());
    std::copy_n(bytes_.begin(), count, into.begin());
    bytes_.remove_prefix(count);
    return count;
  }

 private:
  std::string_view bytes_;
};

/// Counts what another source gives.
class CountedSource final : public ByteSource {
 public:
  CountedSource(std::unique_ptr<ByteSource> source, std::int64_t& count)
      : source_{std::move(source)}, count_{count} {}
  Expected<std::size_t> read(std::span<char> into) override {
    auto got = source_->read(into);
    count_ += got ? static_cast<std::int64_t>(*got) : 0;
    return got;
  }

 private:
  std::unique_ptr<ByteSource> source_;
  std::int64_t& count_;
};

/// `head`, which was read to recognise the file, then the rest.
class PrefixedSource final : public ByteSource {
 public:
  PrefixedSource(std::string head, std::unique_ptr<ByteSource> rest)
      : head_{std::move(head)}, rest_{std::move(rest)} {}
  Expected<std::size_t> read(std::span<char> into) override {
    if (at_ == head_.size()) {
      return rest_->read(into);
    }
    const std::size_t count = std::min(into.size(), head_.size() - at_);
    std::copy_n(head_.data() + at_, count, into.data());
    at_ += count;
    return count;
  }

 private:
  std::string head_;
  std::size_t at_{};
  std::unique_ptr<ByteSource> rest_;
};

/// Frames one after the other. libzstd itself, because Boost.Iostreams' filter takes a frame that
/// is cut off for a whole one.
class ZstdSource final : public ByteSource {
 public:
  ZstdSource(std::unique_ptr<ByteSource> source, std::string name)
      : source_{std::move(source)}, name_{std::move(name)}, context_{ZSTD_createDCtx()} {}
  ZstdSource(const ZstdSource&) = delete;
  ZstdSource& operator=(const ZstdSource&) = delete;
  ~ZstdSource() override { ZSTD_freeDCtx(context_); }

  Expected<std::size_t> read(std::span<char> into) override {
    ZSTD_outBuffer out{into.data(), into.size(), 0};
    while (out.pos == 0 && out.size > 0) {
      if (in_.pos == in_.size && !ended_) {
        auto count = source_->read(compressed_);
        if (!count) {
          return count.error();
        }
        ended_ = *count == 0;
        consumed_ += in_.size;
        in_ = {compressed_.data(), *count, 0};
      }
      if (ended_ && in_.pos == in_.size && frame_ended_) {
        return std::size_t{0};
      }
      const std::size_t result = ZSTD_decompressStream(context_, &out, &in_);
      if (ZSTD_isError(result) != 0U) {
        return fault(fmt::format("corrupt zstd data ({})", ZSTD_getErrorName(result)));
      }
      frame_ended_ = result == 0;
      if (ended_ && in_.pos == in_.size && !frame_ended_ && out.pos == 0) {
        return fault("the zstd data is cut off");
      }
    }
    return out.pos;
  }

 private:
  [[nodiscard]] Error fault(std::string message) const {
    return invalid_input(
        std::move(message),
        InputPosition{name_, 0, 0, static_cast<std::int64_t>(consumed_ + in_.pos)});
  }

  std::unique_ptr<ByteSource> source_;
  std::string name_;
  ZSTD_DCtx* context_;
  std::vector<char> compressed_ = std::vector<char>(kChunk);
  ZSTD_inBuffer in_{nullptr, 0, 0};
  std::uint64_t consumed_{};
  bool ended_{};
  bool frame_ended_{true};
};

/// A ByteSource as Boost.Iostreams wants it. An error of ours travels beside the stream.
struct SourceDevice {
  using char_type = char;
  using category = io::source_tag;
  ByteSource* source;
  std::optional<Error>* fault;
  std::streamsize read(char* into, std::streamsize count) {
    const auto got = source->read({into, static_cast<std::size_t>(count)});
    if (!got) {
      *fault = got.error();
      return -1;
    }
    return *got == 0 ? -1 : static_cast<std::streamsize>(*got);
  }
};

class GzipSource final : public ByteSource {
 public:
  GzipSource(std::unique_ptr<ByteSource> source, std::string name)
      : source_{std::move(source)}, name_{std::move(name)} {
    stream_.push(io::gzip_decompressor{});
    stream_.push(SourceDevice{source_.get(), &fault_});
  }
  Expected<std::size_t> read(std::span<char> into) override {
    try {
      const std::streamsize count =
          stream_.sgetn(into.data(), static_cast<std::streamsize>(into.size()));
      if (fault_) {
        return *fault_;
      }
      return static_cast<std::size_t>(std::max<std::streamsize>(count, 0));
    } catch (const std::exception&) {
      // gzip_error and zlib_error both; their texts ("gzip error") say no more.
      return fault_ ? *fault_
                    : invalid_input("corrupt gzip data, or cut off", InputPosition{name_});
    }
  }

 private:
  std::unique_ptr<ByteSource> source_;
  std::string name_;
  std::optional<Error> fault_{};
  io::filtering_streambuf<io::input> stream_{};
};

}  // namespace

Expected<std::unique_ptr<ByteSource>> open_file(const std::string& path) {
  if (path == "-") {
    return std::unique_ptr<ByteSource>{std::make_unique<FileSource>(STDIN_FILENO, "<stdin>")};
  }
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    return io_error(path, errno);
  }
  return std::unique_ptr<ByteSource>{std::make_unique<FileSource>(file, path)};
}

std::unique_ptr<ByteSource> open_memory(std::string_view bytes) {
  return std::make_unique<MemorySource>(bytes);
}

Expected<Window> Window::open(std::unique_ptr<ByteSource> source, std::string name,
                              std::optional<Bytes> most) {
  auto read = std::make_unique<std::int64_t>(0);
  source = std::make_unique<CountedSource>(std::move(source), *read);
  std::string head(kZstdMagic.size(), '\0');
  std::size_t have = 0;
  while (have < head.size()) {
    const auto count = source->read({head.data() + have, head.size() - have});
    if (!count) {
      return count.error();
    }
    if (*count == 0) {
      break;
    }
    have += *count;
  }
  head.resize(have);
  const bool zstd = head == kZstdMagic;
  const bool gzip = head.starts_with(kGzipMagic);
  source = std::make_unique<PrefixedSource>(std::move(head), std::move(source));
  if (zstd) {
    source = std::make_unique<ZstdSource>(std::move(source), name);
  } else if (gzip) {
    source = std::make_unique<GzipSource>(std::move(source), name);
  }
  Window window{std::move(source), std::move(name), most, std::move(read)};
  return window;
}

Bytes Window::most_memory() const {
  return most_.value_or(
      Bytes{kFreeMemory + kMemoryPerByte * std::min(*read_, INT64_MAX / kMemoryPerByte / 2)});
}

Error Window::takes_too_much() const {
  return invalid_input(
      fmt::format("{} bytes of input would take more than {} of memory: --max-memory allows more",
                  *read_, size_text(most_memory())),
      InputPosition{name_});
}

Expected<Ok> Window::fill(std::size_t count) {
  if (end_ - begin_ >= count || ended_) {
    return Ok{};
  }
  if (begin_ > 0) {
    std::copy(buffer_.begin() + static_cast<std::ptrdiff_t>(begin_),
              buffer_.begin() + static_cast<std::ptrdiff_t>(end_), buffer_.begin());
    end_ -= begin_;
    begin_ = 0;
  }
  while (end_ < count && !ended_) {
    if (buffer_.size() < end_ + kChunk) {
      buffer_.resize(std::max(end_ + kChunk, buffer_.size() * 2));
    }
    const auto got = source_->read({buffer_.data() + end_, buffer_.size() - end_});
    if (!got) {
      return got.error();
    }
    ended_ = *got == 0;
    end_ += *got;
    // The buffer doubles as it grows.
    if (end_ > static_cast<std::uint64_t>(most_memory().count() / 2)) {
      return takes_too_much();
    }
  }
  return Ok{};
}

Expected<Ok> Window::fill_all() {
  while (!ended_) {
    auto done = fill(bytes().size() + 1);
    if (!done) {
      return done;
    }
  }
  return Ok{};
}

Expected<bool> LineReader::next(std::string_view& line) {
  constexpr std::size_t kLongestLine = std::size_t{1} << 20;
  std::string_view bytes = window_.bytes();
  std::size_t end = bytes.find('\n');
  while (end == std::string_view::npos) {
    if (bytes.size() >= kLongestLine) {
      ++number_;
      return error("the line is longer than 1 MiB");
    }
    const std::size_t had = bytes.size();
    const auto done = window_.fill(had + 1);
    if (!done) {
      return done.error();
    }
    bytes = window_.bytes();
    if (bytes.size() == had) {
      if (had == 0) {
        return false;
      }
      ++number_;
      return error("the last line has no end: the file may be cut off");
    }
    end = bytes.find('\n', had);
  }
  ++number_;
  if (number_ > window_.most_memory().count() / kLineMemory) {
    return window_.takes_too_much();
  }
  // The view stays valid: skip() moves no byte, only the next fill() does.
  line = bytes.substr(0, end);
  if (line.ends_with('\r')) {
    line.remove_suffix(1);  // as Windows writes it
  }
  window_.skip(end + 1);
  return true;
}

std::string zstd_compressed(std::string_view bytes, int level) {
  std::string frame(ZSTD_compressBound(bytes.size()), '\0');
  const std::size_t size =
      ZSTD_compress(frame.data(), frame.size(), bytes.data(), bytes.size(), level);
  check(ZSTD_isError(size) == 0U, "zstd compresses into its own bound");
  frame.resize(size);
  return frame;
}

bool zstd_decompress(std::string_view frame, std::span<char> into) {
  const std::size_t size = ZSTD_decompress(into.data(), into.size(), frame.data(), frame.size());
  return ZSTD_isError(size) == 0U && size == into.size();
}

Expected<std::string> compressed_for(const std::string& path, std::string bytes) {
  if (path.ends_with(".zst")) {
    constexpr int kLevel = 12;  // the recordings' size class at some 20 MB/s
    return zstd_compressed(bytes, kLevel);
  }
  if (path.ends_with(".gz")) {
    std::string out;
    io::filtering_ostream stream;
    io::gzip_params params;
    params.level = 9;
    stream.push(io::gzip_compressor{params});
    stream.push(io::back_inserter(out));
    stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    stream.reset();  // flushes the footer
    return out;
  }
  return bytes;
}

}  // namespace peakcast
