#include "allocators/bfc.hpp"

#include <algorithm>
#include <array>

#include "allocators/coalescing_heap.hpp"
#include "allocators/policy_settings.hpp"

namespace peakcast {
namespace {

using namespace literals;

struct BfcRules {
  Bytes next_region{1_MiB};

  static constexpr Bytes kAlignment = 256_B;
  static constexpr Bytes kMostWaste = 128_MiB;

  [[nodiscard]] Bytes rounded(Bytes size) const { return round_up(size, kAlignment); }
  [[nodiscard]] bool splits(Bytes block, Bytes need) const {
    return block >= need * 2 || block - need >= kMostWaste;
  }
  std::optional<std::pair<Address, Bytes>> grow(Bytes need, Upstream& upstream, StreamId stream) {
    bool doubled = false;
    while (next_region < need) {
      next_region = next_region * 2;
      doubled = true;
    }
    Bytes size = next_region;
    std::optional<Address> address = upstream.acquire(size, stream);
    while (!address) {
      // 9/10, rounded to the alignment (and always less); the request itself is the least tried.
      size = std::min(round_up(Bytes{size.count() / 10 * 9}, kAlignment), size - kAlignment);
      if (size < need) {
        return std::nullopt;
      }
      address = upstream.acquire(size, stream);
    }
    // A region that was refused grows no further: nothing larger would be given either.
    if (!doubled && size == next_region) {
      next_region = next_region * 2;
    }
    return std::pair{*address, size};
  }
  void released(Bytes /*size*/) {}
};
static_assert(CoalescingRules<BfcRules>);

}  // namespace

Expected<std::unique_ptr<Allocator>> make_bfc(Device& device, Streams& streams,
                                              const PolicyOptions& options) {
  BfcRules rules;
  const std::array settings{
      PolicySetting{.key = "growth", .size = &rules.next_region, .minimum = 256}};
  if (const auto read = read_settings("bfc", options, settings); !read) {
    return read.error();
  }
  rules.next_region = round_up(rules.next_region, BfcRules::kAlignment);
  return std::unique_ptr<Allocator>{std::make_unique<StreamHeaps>(
      device, streams, StreamHeaps::Options{.name = "bfc", .limit = options.limit},
      [rules](Upstream& upstream, StreamId stream) {
        return std::make_unique<CoalescingHeap<BestFit, BfcRules>>(upstream, stream, rules);
      })};
}

}  // namespace peakcast
