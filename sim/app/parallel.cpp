#include "sim/app/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#include "sim/app/host.hpp"

namespace peakcast::app {

void run_jobs(std::size_t count, std::size_t threads, const std::function<void(std::size_t)>& job) {
  if (threads == 0) {
    threads = std::max<std::size_t>(1, std::thread::hardware_concurrency());
  }
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  std::vector<std::exception_ptr> faults(count);
  // Jobs start in their order, so the lowest that fails has begun before any other can stop the
  // rest.
  const auto work = [&] {
    for (std::size_t i = next++; i < count && !failed; i = next++) {
      try {
        job(i);
      } catch (...) {
        faults[i] = std::current_exception();
        failed = true;
      }
    }
  };
  std::vector<std::thread> helpers;
  for (std::size_t i = 1; i < std::min(threads, count); ++i) {
    helpers.emplace_back([&work, host = host_capture()] {
      const SharedCapture share{host};
      work();
    });
  }
  work();
  for (std::thread& helper : helpers) {
    helper.join();
  }
  for (const std::exception_ptr& fault : faults) {
    if (fault) {
      std::rethrow_exception(fault);
    }
  }
}

}  // namespace peakcast::app
