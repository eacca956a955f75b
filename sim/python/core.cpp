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

#include "sim/app/command.hpp"
#include "sim/app/console.hpp"
#include "sim/core/version.hpp"

namespace nb = nanobind;

namespace peakcast::app {
namespace {

/// One command line, without the program's name: (exit status, stdout, stderr). What is wrong with
/// the input is a ValueError. The interpreter runs on meanwhile; `progress` is called under its
/// lock with (label, done, total).
nb::tuple run(const std::vector<std::string>& words, std::optional<nb::bytes> input,
              const nb::object& progress) {
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
  {
    const nb::gil_scoped_release unlocked;
    Capture capture{std::move(options)};
    status = dispatch("peakcast", "", commands(), words);
    out = capture.take_out();
    notes = capture.take_notes();
  }
  return nb::make_tuple(status, out, notes);
}

}  // namespace
}  // namespace peakcast::app

// A function of nanobind's macro; the name is the file's, as Python imports it.
NB_MODULE(_core, module) {  // NOLINT(readability-identifier-naming): nanobind's own names
  module.doc() = "The commands of the program 'peakcast' as a function.";
  nb::exception<peakcast::app::Fault>(module, "Error", PyExc_ValueError);
  module.attr("__version__") = std::string{peakcast::version()};
  module.def("run", &peakcast::app::run, nb::arg("words"), nb::arg("input") = nb::none(),
             nb::arg("progress") = nb::none(),
             "Runs one command line (without the program's name).\n\n"
             "Returns its exit status, what it wrote to stdout and to stderr. `input` is what the\n"
             "file '-' holds. Raises Error for wrong flags or input.");
}
