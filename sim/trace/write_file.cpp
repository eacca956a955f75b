#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <vector>

#include <fmt/format.h>

#include "sim/trace/byte_source.hpp"

namespace peakcast {
namespace {

Error failed(const std::string& path, int code) {
  return Error{ErrorCode::io, fmt::format("{}: {}", path, std::strerror(code)), std::nullopt};
}

/// Files that are being written, for remove_unfinished_files(), which may run in the middle of
/// anything: fixed places, of which one is taken by setting its flag.
struct Unfinished {
  std::atomic<bool> taken{};
  std::atomic<bool> named{};
  std::array<char, PATH_MAX> path{};
};
constexpr std::size_t kMostUnfinished = 64;
std::array<Unfinished, kMostUnfinished> unfinished_files{};

/// A new file beside `path`, under a name of its own until rename_into_place(); it goes away with
/// this.
class TemporaryFile {
 public:
  TemporaryFile() = default;
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (file_ >= 0) {
      ::close(file_);
    }
    if (place_ != nullptr) {
      ::unlink(place_->path.data());
      forget();
    }
  }

  /// 0, or what is wrong. The mode is that of the file that it takes the place of; else what the
  /// umask leaves of 0666.
  [[nodiscard]] int create(const std::string& path, const struct stat* old) {
    static std::atomic<unsigned> counter{};
    for (Unfinished& place : unfinished_files) {
      if (!place.taken.exchange(true)) {
        place_ = &place;
        break;
      }
    }
    if (place_ == nullptr) {
      return EMFILE;
    }
    for (;;) {
      const std::string name = fmt::format("{}.{}-{}.tmp", path, ::getpid(), ++counter);
      if (name.size() >= place_->path.size()) {
        forget();
        return ENAMETOOLONG;
      }
      std::copy_n(name.c_str(), name.size() + 1, place_->path.begin());
      place_->named = true;
      constexpr mode_t kMode = 0666;
      file_ = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode);
      if (file_ >= 0) {
        constexpr mode_t kPermissions = 07777;
        return old != nullptr && ::fchmod(file_, old->st_mode & kPermissions) != 0 ? errno : 0;
      }
      if (errno != EEXIST) {
        const int code = errno;
        forget();
        return code;
      }
    }
  }

  [[nodiscard]] int write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t count = ::write(file_, bytes.data(), bytes.size());
      if (count >= 0) {
        bytes.remove_prefix(static_cast<std::size_t>(count));
      } else if (errno != EINTR) {
        return errno;
      }
    }
    const int closed = ::close(file_);
    file_ = -1;
    return closed == 0 ? 0 : errno;
  }

  [[nodiscard]] int rename_into_place(const std::string& path) {
    if (::rename(place_->path.data(), path.c_str()) != 0) {
      return errno;
    }
    forget();
    return 0;
  }

 private:
  void forget() {
    place_->named = false;
    place_->taken = false;
    place_ = nullptr;
  }

  Unfinished* place_{};
  int file_{-1};
};

/// What a path stands for.
struct Target {
  std::string path{};  ///< links followed, so that they stay
  struct stat status {};
  bool exists{};
};

Expected<Target> target_of(const std::string& path) {
  Target target{.path = path};
  struct stat link {};
  if (::lstat(path.c_str(), &link) == 0 && S_ISLNK(link.st_mode)) {
    std::error_code error;
    target.path = std::filesystem::weakly_canonical(path, error).string();
    if (error) {
      return failed(path, error.value());
    }
  }
  target.exists = ::stat(target.path.c_str(), &target.status) == 0;
  if (target.exists && S_ISDIR(target.status.st_mode)) {
    return failed(path, EISDIR);
  }
  return target;
}

/// A device or a pipe has no half-written state to hide.
Expected<Ok> write_through(const std::string& path, std::string_view bytes) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) {
    return failed(path, errno);
  }
  const bool written = std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
  const int code = errno;
  if (std::fclose(file) != 0 || !written) {
    return failed(path, written ? errno : code);
  }
  return Ok{};
}

}  // namespace

void remove_unfinished_files() {
  for (Unfinished& place : unfinished_files) {
    if (place.named) {
      ::unlink(place.path.data());
    }
  }
}

Expected<Ok> may_write(const std::string& path, bool overwrite) {
  if (path == "-") {
    return Ok{};
  }
  const auto target = target_of(path);
  if (!target) {
    return target.error();
  }
  if (target->exists && S_ISREG(target->status.st_mode) && !overwrite) {
    return Error{ErrorCode::io, path + ": is there already (--force overwrites it)", std::nullopt};
  }
  return Ok{};
}

Expected<Ok> write_files(std::span<const FileToWrite> files, bool overwrite) {
  std::vector<Target> targets;
  for (const FileToWrite& file : files) {
    if (auto allowed = may_write(file.path, overwrite); !allowed) {
      return allowed;
    }
    targets.push_back(file.path == "-" ? Target{} : target_of(file.path).value());
  }
  std::vector<TemporaryFile> temporaries(files.size());
  for (std::size_t i = 0; i < files.size(); ++i) {
    const bool regular = !targets[i].exists || S_ISREG(targets[i].status.st_mode);
    if (targets[i].path.empty() || !regular) {
      continue;
    }
    int code =
        temporaries[i].create(targets[i].path, targets[i].exists ? &targets[i].status : nullptr);
    code = code == 0 ? temporaries[i].write(files[i].bytes) : code;
    if (code != 0) {
      return failed(files[i].path, code);
    }
  }
  for (std::size_t i = 0; i < files.size(); ++i) {
    const bool regular = !targets[i].exists || S_ISREG(targets[i].status.st_mode);
    if (targets[i].path.empty()) {
      if (std::fwrite(files[i].bytes.data(), 1, files[i].bytes.size(), stdout) !=
              files[i].bytes.size() ||
          std::fflush(stdout) != 0) {
        return Error{errno == EPIPE ? ErrorCode::closed_pipe : ErrorCode::io,
                     fmt::format("<stdout>: {}", std::strerror(errno)), std::nullopt};
      }
    } else if (!regular) {
      if (auto done = write_through(targets[i].path, files[i].bytes); !done) {
        return done;
      }
    } else if (const int code = temporaries[i].rename_into_place(targets[i].path); code != 0) {
      return failed(files[i].path, code);
    }
  }
  return Ok{};
}

Expected<Ok> write_file(const std::string& path, std::string_view bytes, bool overwrite) {
  const FileToWrite file{path, bytes};
  return write_files({&file, 1}, overwrite);
}

}  // namespace peakcast
