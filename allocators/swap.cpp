#include "allocators/swap.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "allocators/policy_settings.hpp"
#include "allocators/segment_rules.hpp"
#include "sim/core/slots.hpp"

namespace peakcast {
namespace {

using namespace literals;

constexpr Bytes kPage = 2_MiB;

class SwapHeap final : public StreamHeap {
 public:
  SwapHeap(Upstream& upstream, StreamId stream, Bytes resident, Bytes rate)
      : upstream_{upstream},
        stream_{stream},
        most_{resident},
        rate_{rate},
        small_{upstream, stream, SmallSegments{}} {}

  [[nodiscard]] Bytes rounded(Bytes size) const override {
    return is_small(size) ? small_.rounded(size) : round_up(size, kPage);
  }

  [[nodiscard]] std::optional<Grant> take(Bytes size) override {
    if (is_small(size)) {
      std::optional<Grant> grant = small_.take(size);
      while (!grant && (drop_cached() || evict_oldest())) {
        grant = small_.take(size);
      }
      if (grant) {
        grant->block = grant->block << 1U | 1U;
      }
      return grant;
    }
    const Bytes need = round_up(size, kPage);
    std::uint32_t number{};
    const auto cached = cached_.find(need);
    if (cached != cached_.end()) {
      number = cached->second.back();
      cached->second.pop_back();
      if (cached->second.empty()) {
        cached_.erase(cached);
      }
      cached_bytes_ -= need;
    } else {
      const std::optional<PhysicalId> memory = find_memory(need);
      if (!memory) {
        return std::nullopt;
      }
      const std::optional<Address> address = upstream_.device().reserve(need);
      if (!address) {
        upstream_.destroy(*memory, need);
        return std::nullopt;
      }
      number = new_buffer();
      buffers_[number].address = *address;
      buffers_[number].size = need;
      map(number, *memory);
    }
    Buffer& buffer = buffers_[number];
    buffer.state = State::resident;
    buffer.touched = ++clock_;
    buffer.born = iteration_;
    by_touch_.emplace(buffer.touched, number);
    used_ += need;
    most_used_ = std::max(most_used_, used_);
    return Grant{buffer.address, need, number << 1U};
  }

  void give(std::uint32_t block) override {
    if ((block & 1U) != 0) {
      small_.give(block >> 1U);
      return;
    }
    const std::uint32_t number = block >> 1U;
    if (buffers_[number].state == State::on_host) {
      // Its last use comes before its end: it has to be on the card for it.
      count(buffers_[number].size);
      const std::optional<PhysicalId> memory = find_memory(buffers_[number].size);
      if (!memory) {  // even the rest moved out is not enough: used over the link
        retire(number);
        return;
      }
      map(number, *memory);
    } else {
      by_touch_.erase({buffers_[number].touched, number});
      used_ -= buffers_[number].size;
    }
    Buffer& buffer = buffers_[number];
    buffer.state = State::cached;
    cached_[buffer.size].push_back(number);
    cached_bytes_ += buffer.size;
  }

  bool trim() override {
    bool any = small_.trim();
    while (drop_cached()) {
      any = true;
    }
    return any;
  }

  void begin_iteration(std::int64_t index) override {
    for (const Buffer& buffer : buffers_) {
      if (buffer.state == State::on_host && buffer.born < iteration_) {
        count(buffer.size * 2);  // in for its use, and out again
      }
    }
    iteration_ = index;
  }

  [[nodiscard]] Bytes largest_free() const override {
    return std::max(cached_bytes_, small_.largest_free());
  }

  void append_to(HeapView& view) const override {
    const std::size_t before = view.segments.size();
    small_.append_to(view);
    for (std::size_t i = before; i < view.segments.size(); ++i) {
      view.segments[i].small_pool = true;
    }
    for (const Buffer& buffer : buffers_) {
      if (buffer.state == State::unused) {
        continue;
      }
      view.segments.push_back({.address = buffer.address,
                               .size = buffer.size,
                               .stream = stream_,
                               .on_host = buffer.state == State::on_host});
      view.segments.back().blocks.push_back(
          {.address = buffer.address,
           .size = buffer.size,
           .state = buffer.state == State::cached ? BlockState::free : BlockState::allocated,
           .stream = stream_});
    }
  }

 private:
  enum class State : std::uint8_t { unused, resident, on_host, cached };
  struct Buffer {
    Address address{};
    Bytes size{};
    PhysicalId memory{};
    std::int64_t touched{};
    std::int64_t born{};
    State state{};
  };

  static bool is_small(Bytes size) { return size <= SmallSegments::kLargestRequest; }

  std::uint32_t new_buffer() { return buffers_.take(); }

  void map(std::uint32_t number, PhysicalId memory) {
    Buffer& buffer = buffers_[number];
    upstream_.device().map(buffer.address, memory);
    buffer.memory = memory;
    upstream_.say(Action::segment_map, buffer.address, buffer.size, stream_);
  }
  void unmap(std::uint32_t number) {
    Buffer& buffer = buffers_[number];
    upstream_.device().unmap(buffer.address, buffer.size);
    upstream_.say(Action::segment_unmap, buffer.address, buffer.size, stream_);
    upstream_.destroy(buffer.memory, buffer.size);
  }

  /// Memory for `size`. What is cached in other sizes goes first, as far as the card would else
  /// hold more than was ever in use; then the host takes in what was touched longest ago.
  std::optional<PhysicalId> find_memory(Bytes size) {
    while (!cached_.empty() && used_ + cached_bytes_ + size > std::max(most_used_, used_ + size)) {
      static_cast<void>(drop_cached());
    }
    while (true) {
      const bool allowed = used_ + cached_bytes_ + size <= most_;
      const std::optional<PhysicalId> memory = allowed ? upstream_.create(size) : std::nullopt;
      if (memory || (!drop_cached() && !evict_oldest())) {
        return memory;
      }
    }
  }

  std::uint32_t take_cached() {
    const auto largest = std::prev(cached_.end());
    const std::uint32_t number = largest->second.front();
    largest->second.erase(largest->second.begin());
    cached_bytes_ -= largest->first;
    if (largest->second.empty()) {
      cached_.erase(largest);
    }
    return number;
  }
  void retire(std::uint32_t number) {
    upstream_.device().unreserve(buffers_[number].address, buffers_[number].size);
    buffers_[number].state = State::unused;
    buffers_.give_back(number);
  }
  bool drop_cached() {
    if (cached_.empty()) {
      return false;
    }
    const std::uint32_t number = take_cached();
    unmap(number);
    retire(number);
    return true;
  }
  bool evict_oldest() {
    if (by_touch_.empty()) {
      return false;
    }
    const std::uint32_t number = by_touch_.begin()->second;
    by_touch_.erase(by_touch_.begin());
    buffers_[number].state = State::on_host;
    used_ -= buffers_[number].size;
    count(buffers_[number].size);
    unmap(number);
    return true;
  }

  /// Rounded up to whole nanoseconds.
  void count(Bytes moved) {
    const std::int64_t seconds = moved.count() / rate_.count();
    const std::int64_t rest = moved.count() % rate_.count();
    // rest < rate <= 1 TB: the product stays below 2^63 after dividing both by 1000.
    const std::int64_t ns = seconds * 1'000'000'000 + rest * 1'000'000 / (rate_.count() / 1000) + 1;
    upstream_.count_transfer(moved, SimDuration{ns});
  }

  Upstream& upstream_;
  StreamId stream_;
  Bytes most_;
  Bytes rate_;
  SmallHeap small_;
  Slots<Buffer> buffers_{};
  std::set<std::pair<std::int64_t, std::uint32_t>> by_touch_{};  ///< resident, in use
  std::map<Bytes, std::vector<std::uint32_t>> cached_{};         ///< free but mapped, by size
  Bytes cached_bytes_{};
  Bytes used_{};       ///< resident and in use, large buffers
  Bytes most_used_{};  ///< the most that used_ ever was
  std::int64_t clock_{};
  std::int64_t iteration_{-1};
};

}  // namespace

Expected<std::unique_ptr<Allocator>> make_swap(Device& device, Streams& streams,
                                               const PolicyOptions& options) {
  Bytes resident{std::numeric_limits<std::int64_t>::max()};
  Bytes rate{55'000'000'000};
  const std::array settings{
      PolicySetting{.key = "resident", .size = &resident, .minimum = kPage.count()},
      PolicySetting{.key = "rate", .size = &rate, .minimum = 1'000'000}};
  if (const auto read = read_settings("swap", options, settings); !read) {
    return read.error();
  }
  if (rate > Bytes{1'000'000'000'000}) {
    return invalid_input("swap's rate is above 1 TB per second");
  }
  return std::unique_ptr<Allocator>{std::make_unique<StreamHeaps>(
      device, streams,
      StreamHeaps::Options{.name = "swap", .limit = options.limit, .one_heap = true},
      [resident, rate](Upstream& upstream, StreamId stream) {
        return std::make_unique<SwapHeap>(upstream, stream, resident, rate);
      })};
}

}  // namespace peakcast
