#include "allocators/cuda_malloc_async.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "allocators/policy_settings.hpp"
#include "allocators/stream_heaps.hpp"
#include "sim/core/slots.hpp"

namespace peakcast {
namespace {

using namespace literals;

/// The books of the device's one pool, which all streams share.
struct PoolBooks {
  Bytes used{};
  Bytes reserved{};
};

/// One stream's calls of the pool: what a stream frees is ordered by that stream, so another may
/// have it only when the driver says so.
class PoolHeap final : public StreamHeap {
 public:
  PoolHeap(Upstream& upstream, Streams& streams, StreamId stream, std::shared_ptr<PoolBooks> books,
           Bytes threshold, std::optional<Bytes> limit)
      : upstream_{upstream},
        streams_{streams},
        stream_{stream},
        books_{std::move(books)},
        threshold_{threshold},
        limit_{limit} {}

  [[nodiscard]] Bytes rounded(Bytes size) const override { return size; }

  [[nodiscard]] std::optional<Grant> take(Bytes size) override {
    if (limit_ && books_->used + size > *limit_) {  // the backend's limit is on what is used
      return std::nullopt;
    }
    const std::optional<Address> address = upstream_.device().pool_allocate(size, stream_);
    follow();
    if (!address) {
      return std::nullopt;
    }
    books_->used += size;
    const std::uint32_t number = taken_.take({*address, size, true});
    return Grant{*address, size, number};
  }

  void give(std::uint32_t number) override {
    taken_[number].live = false;
    taken_.give_back(number);
    books_->used -= taken_[number].size;
    upstream_.device().pool_free(taken_[number].address, stream_);
  }

  bool trim() override {
    const Bytes before = upstream_.device().pool_reserved();
    streams_.synchronize_device();
    upstream_.device().synchronized();
    upstream_.device().pool_trim(Bytes{});
    follow();
    return upstream_.device().pool_reserved() < before;
  }

  /// A training loop has waited for the device by now; that is where the driver returns what is
  /// beyond the threshold.
  void begin_iteration(std::int64_t /*index*/) override {
    upstream_.device().synchronized();
    upstream_.device().pool_trim(threshold_);
    follow();
  }

  [[nodiscard]] Bytes largest_free() const override { return {}; }  // the driver does not tell

  /// The pool shows blocks, no segments: each is its own, and free memory cannot be seen.
  void append_to(HeapView& view) const override {
    for (const Taken& taken : taken_) {
      if (taken.live) {
        view.segments.push_back({.address = taken.address, .size = taken.size});
        view.segments.back().blocks.push_back(
            {.address = taken.address, .size = taken.size, .state = BlockState::allocated});
      }
    }
  }

 private:
  struct Taken {
    Address address{};
    Bytes size{};
    bool live{};
  };
  void follow() {
    const Bytes now = upstream_.device().pool_reserved();
    if (now != books_->reserved) {
      upstream_.count_reserved(now - books_->reserved);
      books_->reserved = now;
    }
  }

  Upstream& upstream_;
  Streams& streams_;
  StreamId stream_;
  std::shared_ptr<PoolBooks> books_;
  Bytes threshold_;
  std::optional<Bytes> limit_;
  Slots<Taken> taken_{};
};

}  // namespace

Expected<std::unique_ptr<Allocator>> make_cuda_malloc_async(Device& device, Streams& streams,
                                                            const PolicyOptions& options) {
  Bytes threshold{std::numeric_limits<std::int64_t>::max()};
  const std::array settings{PolicySetting{.key = "threshold", .size = &threshold}};
  if (const auto read = read_settings("cuda-malloc-async", options, settings); !read) {
    return read.error();
  }
  const std::optional<Bytes> limit = options.limit;
  return std::unique_ptr<Allocator>{std::make_unique<StreamHeaps>(
      device, streams, StreamHeaps::Options{.name = "cuda-malloc-async", .fails_at_once = true},
      [&streams, threshold, limit, books = std::make_shared<PoolBooks>()](Upstream& upstream,
                                                                          StreamId stream) {
        return std::make_unique<PoolHeap>(upstream, streams, stream, books, threshold, limit);
      })};
}

}  // namespace peakcast
