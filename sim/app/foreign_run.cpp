#include "sim/app/foreign_run.hpp"

#include <exception>
#include <new>

#include "allocators/plugin/foreign_process.hpp"
#include "sim/app/command.hpp"
#include "sim/app/console.hpp"

namespace peakcast::app {

int guarded(const std::function<int()>& run, std::string_view program) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    write_error("not enough memory for this input", program);
  } catch (const std::exception& error) {
    write_error(error.what(), program);
  }
  return kBadInput;
}

int supervised(const std::function<int()>& run, bool keeps_output, std::string_view program) {
  const ForeignRun result = run_supervised([&] { return guarded(run, program); });
  if (!result.failure || keeps_output) {
    write_stdout(result.output);
  }
  if (result.failure) {
    write_error(*result.failure, program);
    return kBadInput;
  }
  return result.status;
}

}  // namespace peakcast::app
