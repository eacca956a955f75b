#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "sim/alloc/allocator.hpp"

namespace peakcast {

/// An Allocator around an Allocator, which it borrows: passes calls on. One that watches or changes
/// some overrides those. serve() is not passed on, so that each op of it goes through allocate()
/// and deallocate() here; nor is resume(), so that every block in use was handed out here. The sink
/// is set on the inner allocator.
class AllocatorDecorator : public Allocator {
 public:
  explicit AllocatorDecorator(Allocator& inner) : inner_{inner} {}
  AllocatorDecorator(const AllocatorDecorator&) = delete;
  AllocatorDecorator& operator=(const AllocatorDecorator&) = delete;

  [[nodiscard]] std::string_view name() const override { return inner_.name(); }
  [[nodiscard]] AllocOutcome allocate(const AllocRequest& request) override {
    return inner_.allocate(request);
  }
  void deallocate(BlockId block) override { inner_.deallocate(block); }
  void record_stream(BlockId block, StreamId stream) override {
    inner_.record_stream(block, stream);
  }
  void empty_cache() override { inner_.empty_cache(); }
  void poll() override { inner_.poll(); }
  void reset_peaks() override { inner_.reset_peaks(); }
  void begin_iteration(std::int64_t index) override { inner_.begin_iteration(index); }
  [[nodiscard]] const Statistics& statistics() const override { return inner_.statistics(); }
  [[nodiscard]] HeapView view() const override { return inner_.view(); }
  [[nodiscard]] Transfers transfers() const override { return inner_.transfers(); }
  [[nodiscard]] std::optional<std::string> fault() const override { return inner_.fault(); }
  void set_sink(EventSink* sink) override { inner_.set_sink(sink); }

 protected:
  [[nodiscard]] Allocator& inner() { return inner_; }

 private:
  Allocator& inner_;
};

}  // namespace peakcast
