#include "allocators/plugin/foreign_process.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <new>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace peakcast {

/// One policy's, in shared memory.
struct ForeignRow {
  std::atomic<const char*> function{};  ///< that runs; null: none. A literal of this program, so
                                        ///< both processes know it at one address
  std::atomic<std::uint64_t> calls{};   ///< so far
  std::atomic<std::uint64_t> request{};
  std::atomic<std::uint64_t> bytes{};  ///< of that request
  std::array<char, 160> name{};
  std::array<char, 256> late_fault{};
};

namespace {

constexpr std::size_t kRows = 256;
constexpr int kNotEnded = -1;

struct Board {
  std::array<ForeignRow, kRows> rows{};
  std::atomic<std::size_t> used{};
  std::atomic<int> status{kNotEnded};
};

/// Of this process; null unless it is supervised. Set once, before any thread.
Board* board_of_process = nullptr;

template <std::size_t kSize>
void copy_text(std::string_view text, std::array<char, kSize>& into) {
  const std::size_t length = std::min(text.size(), kSize - 1);
  std::copy_n(text.begin(), length, into.begin());
  into[length] = '\0';
}

std::string place_of(const ForeignRow& row) {
  std::string text = fmt::format("policy '{}'", row.name.data());
  if (const std::uint64_t request = row.request.load(); request > 0) {
    text += fmt::format(", at request {} ({} bytes)", request, row.bytes.load());
  }
  return text;
}

/// The rows whose library is at work, told with what it did.
std::string told(const Board& board, std::string_view what) {
  std::string text;
  const std::size_t used = std::min(board.used.load(), kRows);
  for (std::size_t i = 0; i < used; ++i) {
    const ForeignRow& row = board.rows[i];
    if (const char* function = row.function.load()) {
      text += fmt::format("{}{}: {} {}", text.empty() ? "" : "; ", place_of(row), function, what);
    }
  }
  return text.empty() ? fmt::format("the process that ran a foreign policy {}", what) : text;
}

std::optional<std::string> late_fault(const Board& board) {
  const std::size_t used = std::min(board.used.load(), kRows);
  for (std::size_t i = 0; i < used; ++i) {
    if (board.rows[i].late_fault[0] != '\0') {
      return fmt::format("{}: {}", place_of(board.rows[i]), board.rows[i].late_fault.data());
    }
  }
  return std::nullopt;
}

/// Follows the calls: a library that is in one call for too long.
class Watch {
 public:
  explicit Watch(const Board& board) : board_{board} {}

  [[nodiscard]] bool too_long() {
    const auto now = std::chrono::steady_clock::now();
    const std::size_t used = std::min(board_.used.load(), kRows);
    for (std::size_t i = 0; i < used; ++i) {
      const ForeignRow& row = board_.rows[i];
      const std::uint64_t calls = row.calls.load();
      if (row.function.load() == nullptr || seen_[i].calls != calls) {
        seen_[i] = {calls, now};
      } else if (now - seen_[i].since > kLongestForeignCall) {
        return true;
      }
    }
    return false;
  }

 private:
  struct Seen {
    std::uint64_t calls{};
    std::chrono::steady_clock::time_point since{std::chrono::steady_clock::now()};
  };
  const Board& board_;
  std::vector<Seen> seen_ = std::vector<Seen>(kRows);
};

[[noreturn]] void be_the_child(Board& board, int out, const std::function<int()>& run) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);  // it does not outlive who waits for it
  ::dup2(out, STDOUT_FILENO);
  ::close(out);
  board_of_process = &board;
  const int status = run();
  std::fflush(stdout);
  board.status = status;
  // Not exit(): what the library left to be done then is its own affair.
  ::_exit(0);
}

/// Reads what is there; false at the end.
bool drain(int from, std::string& into) {
  std::array<char, 1 << 16> buffer{};
  for (;;) {
    const ssize_t got = ::read(from, buffer.data(), buffer.size());
    if (got > 0) {
      into.append(buffer.data(), static_cast<std::size_t>(got));
      return true;
    }
    if (got == 0 || errno != EINTR) {
      return false;
    }
  }
}

}  // namespace

ForeignCalls::ForeignCalls(std::string_view name) {
  if (board_of_process == nullptr) {
    return;
  }
  // A sweep runs more policies than there are rows, but one after the other: a row serves again,
  // unless it tells a late fault.
  for (std::size_t tries = 0; tries < kRows && row_ == nullptr; ++tries) {
    ForeignRow& row = board_of_process->rows[board_of_process->used.fetch_add(1) % kRows];
    row_ = row.late_fault[0] == '\0' && row.function.load() == nullptr ? &row : nullptr;
  }
  if (row_ != nullptr) {
    copy_text(name, row_->name);
    row_->request = 0;
  }
}

void ForeignCalls::begin_request(std::uint64_t bytes) {
  if (row_ != nullptr) {
    row_->bytes.store(bytes, std::memory_order_relaxed);
    row_->request.store(row_->request.load(std::memory_order_relaxed) + 1,
                        std::memory_order_relaxed);
  }
}

void ForeignCalls::set_late_fault(std::string_view what) const {
  if (row_ != nullptr && row_->late_fault[0] == '\0') {
    copy_text(what, row_->late_fault);
  }
}

ForeignCalls::Call::Call(const ForeignCalls& calls, const char* function) : row_{calls.row_} {
  if (row_ != nullptr) {
    row_->calls.store(row_->calls.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    row_->function.store(function, std::memory_order_relaxed);
  }
}

ForeignCalls::Call::~Call() {
  if (row_ != nullptr) {
    row_->function.store(nullptr, std::memory_order_relaxed);
  }
}

ForeignRun run_supervised(const std::function<int()>& run) {
  void* const shared =
      ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check(shared != MAP_FAILED, "memory to be shared with a child");
  Board& board = *new (shared) Board;
  std::array<int, 2> ends{};
  check(::pipe(ends.data()) == 0, "a pipe to a child");
  std::fflush(stdout);
  std::fflush(stderr);
  const pid_t child = ::fork();
  check(child >= 0, "a process for a foreign policy");
  if (child == 0) {
    ::close(ends[0]);
    be_the_child(board, ends[1], run);
  }
  ::close(ends[1]);

  ForeignRun result;
  Watch watch{board};
  constexpr int kTickMs = 50;
  int state = 0;
  bool open = true;
  bool ended = false;
  while (!ended) {
    pollfd from{.fd = ends[0], .events = POLLIN, .revents = 0};
    if (open && ::poll(&from, 1, kTickMs) > 0) {
      open = drain(ends[0], result.output);
    } else if (!open) {
      ::poll(nullptr, 0, 1);
    }
    // What it wrote is read to the end first; a process of the library's may hold the pipe.
    ended = ::waitpid(child, &state, WNOHANG) == child;
    if (!ended && watch.too_long()) {
      result.failure =
          told(board, fmt::format("did not come back within {} s", kLongestForeignCall.count()));
      ::kill(child, SIGKILL);
      ::waitpid(child, &state, 0);
      ended = true;
    }
  }
  for (pollfd from{.fd = ends[0], .events = POLLIN, .revents = 0};
       open && ::poll(&from, 1, 0) > 0;) {
    open = drain(ends[0], result.output);
  }
  ::close(ends[0]);

  if (!result.failure && board.status != kNotEnded) {
    result.status = board.status;
    result.failure = late_fault(board);
  } else if (!result.failure) {
    result.failure =
        told(board, WIFSIGNALED(state)
                        ? fmt::format("crashed: {}", ::strsignal(WTERMSIG(state)))
                        : fmt::format("ended the process with status {}", WEXITSTATUS(state)));
  }
  ::munmap(shared, sizeof(Board));
  return result;
}

}  // namespace peakcast
