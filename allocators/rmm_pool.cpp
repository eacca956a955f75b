#include "allocators/rmm_pool.hpp"

#include <algorithm>
#include <array>

#include "allocators/coalescing_heap.hpp"
#include "allocators/policy_settings.hpp"

namespace peakcast {
namespace {

using namespace literals;

struct RmmPoolRules {
  Bytes initial{};
  Bytes maximum{};  ///< 0: none
  Bytes pool{};     ///< its size now

  static constexpr Bytes kAlignment = 256_B;

  [[nodiscard]] Bytes rounded(Bytes size) const { return round_up(size, kAlignment); }
  [[nodiscard]] bool splits(Bytes /*block*/, Bytes /*need*/) const { return true; }
  std::optional<std::pair<Address, Bytes>> grow(Bytes need, Upstream& upstream, StreamId stream) {
    Bytes size = std::max(need, pool > Bytes{} ? pool : initial);
    if (maximum > Bytes{}) {
      // With a maximum: half of what is left, or the request if that is more.
      const Bytes left = round_up(maximum - pool, kAlignment);
      if (need > left) {
        return std::nullopt;
      }
      size = std::max(need, pool > Bytes{} ? Bytes{left.count() / 2} : std::min(initial, left));
    }
    size = round_up(size, kAlignment);
    while (true) {
      const std::optional<Address> address = upstream.acquire(size, stream);
      if (address) {
        pool += size;
        return std::pair{*address, size};
      }
      if (size == need) {
        return std::nullopt;
      }
      size = std::max(need, round_up(Bytes{size.count() / 2}, kAlignment));
    }
  }
  void released(Bytes size) { pool -= size; }
};
static_assert(CoalescingRules<RmmPoolRules>);

/// Returns nothing to the driver.
class RmmPoolHeap final : public CoalescingHeap<BestFit, RmmPoolRules> {
 public:
  using CoalescingHeap::CoalescingHeap;
  bool trim() override { return false; }
};

}  // namespace

Expected<std::unique_ptr<Allocator>> make_rmm_pool(Device& device, Streams& streams,
                                                   const PolicyOptions& options) {
  RmmPoolRules rules;
  const std::array settings{
      PolicySetting{.key = "initial_pool_size", .size = &rules.initial},
      PolicySetting{.key = "maximum_pool_size", .size = &rules.maximum, .minimum = 256}};
  if (const auto read = read_settings("rmm-pool", options, settings); !read) {
    return read.error();
  }
  if (rules.maximum > Bytes{} && rules.initial > rules.maximum) {
    return invalid_input("rmm-pool's initial_pool_size is above its maximum_pool_size");
  }
  return std::unique_ptr<Allocator>{std::make_unique<StreamHeaps>(
      device, streams,
      StreamHeaps::Options{.name = "rmm-pool", .limit = options.limit, .one_heap = true},
      [rules](Upstream& upstream, StreamId stream) {
        return std::make_unique<RmmPoolHeap>(upstream, stream, rules);
      })};
}

}  // namespace peakcast
