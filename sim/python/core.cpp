// The program's commands as one function. Everything that is Python's (keyword arguments, results
// with attributes) is written in Python, in peakcast/.

#include <exception>
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "allocators/plugin/plugin.hpp"
#include "sim/app/command.hpp"
#include "sim/app/host.hpp"
#include "sim/core/version.hpp"

#ifdef PEAKCAST_STATIC
// Debian compiles its archives for programs: a library cannot refer to libc's variables as they do.
// One of them does, Boost's reader of environment variables, which nobody here calls; the link
// renames its `environ` to this (--wrap=environ). Programs are started by the program peakcast, not
// from here (NeedsProcess).
extern "C" {
extern char** __wrap_environ;     // NOLINT(bugprone-reserved-identifier): ld's name
char** __wrap_environ = nullptr;  // NOLINT(bugprone-reserved-identifier)
}
#endif

namespace nb = nanobind;

namespace peakcast::app {
namespace {

/// One command line, without the program's name: (exit status, stdout, stderr, what is wrong with
/// the input or None). The interpreter runs on meanwhile; `progress` is called under its lock with
/// (label, done, total).
nb::tuple run(const std::vector<std::string>& words, std::optional<nb::bytes> input,
              const nb::object& progress) {
  if (names_plugin(words)) {
    throw NeedsProcess{};  // what breaks in a policy of others is not to break the interpreter
  }
  Capture::Options options;
  if (input) {
    options.input = std::string{input->c_str(), input->size()};
  }
  if (!progress.is_none()) {
    options.progress = [&progress](std::string_view label, std::int64_t done, std::int64_t total) {
      const nb::gil_scoped_acquire lock;
      progress(std::string{label}, done, total);
    };
  }
  int status = kBadInput;
  std::string out;
  std::string notes;
  std::optional<std::string> fault;
  {
    const nb::gil_scoped_release unlocked;
    Capture capture{std::move(options)};
    try {
      status = dispatch("peakcast", "", commands(), words);
    } catch (const Fault& thrown) {
      fault = thrown.what();
    }
    out = capture.take_out();
    notes = capture.take_notes();
  }
  return nb::make_tuple(status, out, notes, fault);
}

}  // namespace
}  // namespace peakcast::app

// A function of nanobind's macro; the name is the file's, as Python imports it.
NB_MODULE(_core, module) {  // NOLINT(readability-identifier-naming): nanobind's own names
  module.doc() = "The commands of the program 'peakcast' as a function.";
  nb::exception<peakcast::app::NeedsProcess>(module, "NeedsProcess", PyExc_RuntimeError);
  module.attr("__version__") = std::string{peakcast::version()};
  module.def(
      "run", &peakcast::app::run, nb::arg("words"), nb::arg("input") = nb::none(),
      nb::arg("progress") = nb::none(),
      "Runs one command line (without the program's name).\n\n"
      "Returns its exit status, what it wrote to stdout and to stderr, and what is wrong with\n"
      "the input, or None. `input` is what the file '-' holds. Raises NeedsProcess for what\n"
      "runs code of others.");
}
