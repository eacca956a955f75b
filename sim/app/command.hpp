#pragma once

#include <cstdlib>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "sim/core/error.hpp"

namespace peakcast::app {

// What the program's exit status says; other programs depend on these numbers.
inline constexpr int kFits = 0;        ///< it fits; checks pass
inline constexpr int kDoesNotFit = 1;  ///< out of memory is predicted; a check failed
inline constexpr int kBadInput = 2;    ///< bad usage or bad input
inline constexpr int kNoGpu = 77;      ///< a GPU is needed and there is none

/// A command and what runs it. `words` are those after the command's name. The result is an exit
/// status; a fault of the input is thrown as Fault and ends in kBadInput.
struct Command {
  std::string_view name;
  std::string_view summary;  ///< one line
  int (*run)(std::span<const std::string> words);
};

// One function per command, each in <command>_command.cpp.
int run_capture(std::span<const std::string> words);
int run_completion(std::span<const std::string> words);
int run_compare(std::span<const std::string> words);
int run_fit(std::span<const std::string> words);
int run_fit_capture(std::span<const std::string> words);  ///< `fit` with a program behind --
int run_gpus(std::span<const std::string> words);
int run_models(std::span<const std::string> words);
int run_policies(std::span<const std::string> words);
int run_predict(std::span<const std::string> words);
int run_explain(std::span<const std::string> words);
int run_replay(std::span<const std::string> words);
int run_plan(std::span<const std::string> words);
int run_schema(std::span<const std::string> words);
int run_sweep(std::span<const std::string> words);
int run_trace(std::span<const std::string> words);
int run_trace_convert(std::span<const std::string> words);
int run_trace_diff(std::span<const std::string> words);
int run_trace_generate(std::span<const std::string> words);
int run_trace_info(std::span<const std::string> words);
int run_trace_validate(std::span<const std::string> words);

/// Runs the command of `table` that the first word names. `path` is what came before ("peakcast",
/// "peakcast trace"); no word, --help and -h print the table.
[[nodiscard]] int dispatch(std::string_view path, std::string_view summary,
                           std::span<const Command> table, std::span<const std::string> words);

/// Every command of the program, in the order of the help text. One visible table: command.cpp.
[[nodiscard]] std::span<const Command> commands();

/// A fault of the input on its way to main(), which prints it and exits with kBadInput. Exceptions
/// are for this folder only; libraries return Expected.
class Fault : public std::runtime_error {
 public:
  explicit Fault(const Error& error) : std::runtime_error{to_string(error)}, code_{error.code} {}
  explicit Fault(const std::string& message) : std::runtime_error{message} {}
  [[nodiscard]] ErrorCode code() const { return code_; }

 private:
  ErrorCode code_{ErrorCode::invalid_input};
};

/// The value, or its error thrown as a Fault.
template <class T>
[[nodiscard]] T value_or_throw(Expected<T> result) {
  if (!result) {
    if (result.error().code == ErrorCode::closed_pipe) {
      std::_Exit(kFits);  // whoever read the output has seen enough, as in `| head`
    }
    throw Fault{result.error()};
  }
  return std::move(result).value();
}

}  // namespace peakcast::app
