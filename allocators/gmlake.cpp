#include "allocators/gmlake.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "allocators/policy_settings.hpp"
#include "allocators/segment_rules.hpp"
#include "sim/core/slots.hpp"

namespace peakcast {
namespace {

using namespace literals;

constexpr Bytes kChunk = 2_MiB;

struct GmlakeLimits {
  Bytes fragment{kChunk};
  std::int64_t stitches{4096};
};

class GmlakeHeap final : public StreamHeap {
 public:
  GmlakeHeap(Upstream& upstream, StreamId stream, GmlakeLimits limits)
      : upstream_{upstream},
        stream_{stream},
        limits_{limits},
        small_{upstream, stream, SmallSegments{}} {}

  [[nodiscard]] Bytes rounded(Bytes size) const override {
    return is_small(size) ? small_.rounded(size) : round_up(size, kChunk);
  }

  [[nodiscard]] std::optional<Grant> take(Bytes size) override {
    if (is_small(size)) {
      std::optional<Grant> grant = small_.take(size);
      if (grant) {
        grant->block = grant->block << 1U | 1U;
      }
      return grant;
    }
    const Bytes need = round_up(size, kChunk);
    // 1. Exactly this size.
    const auto exact = idle_.lower_bound({need, 0});
    if (exact != idle_.end() && exact->first == need) {
      const std::uint32_t p = exact->second;
      set_active(p, true);
      return hand_out({p}, primitives_[p].address, need, kNone);
    }
    const auto stitched = idle_stitches_.lower_bound({need, 0});
    if (stitched != idle_stitches_.end() && stitched->first == need) {
      const std::uint32_t s = stitched->second;
      const std::vector<std::uint32_t> parts = stitches_[s].parts;
      for (const std::uint32_t p : parts) {
        set_active(p, true);
      }
      touch(s);
      return hand_out(parts, stitches_[s].address, need, s);
    }
    // 2. A larger primitive block.
    if (exact != idle_.end() && may_split(exact->first)) {
      const std::uint32_t p = exact->second;
      split(p, need);
      set_active(p, true);
      return hand_out({p}, primitives_[p].address, need, kNone);
    }
    // 3. and 4. Several of them, and a new one for what they lack.
    std::vector<std::uint32_t> parts;
    Bytes sum{};
    for (auto p = idle_.rbegin(); p != idle_.rend() && sum < need; ++p) {
      if (p->first < limits_.fragment || (sum + p->first > need && !may_split(p->first))) {
        continue;
      }
      parts.push_back(p->second);
      sum += p->first;
    }
    if (sum > need) {
      split(parts.back(), primitives_[parts.back()].size - (sum - need));
    } else if (sum < need) {
      const std::uint32_t made = create(need - sum);
      if (made == kNone) {
        return std::nullopt;
      }
      parts.push_back(made);
    }
    for (const std::uint32_t p : parts) {
      set_active(p, true);
    }
    if (parts.size() == 1) {
      return hand_out(parts, primitives_[parts.front()].address, need, kNone);
    }
    const std::optional<std::uint32_t> s = stitch(parts, need);
    if (!s) {
      for (const std::uint32_t p : parts) {
        set_active(p, false);
      }
      return std::nullopt;
    }
    return hand_out(parts, stitches_[*s].address, need, *s);
  }

  void give(std::uint32_t block) override {
    if ((block & 1U) != 0) {
      small_.give(block >> 1U);
      return;
    }
    const std::uint32_t number = block >> 1U;
    Taken& taken = taken_[number];
    for (const std::uint32_t p : taken.parts) {
      set_active(p, false);
    }
    if (taken.stitched != kNone) {
      say_moved(taken, false);
      stitches_[taken.stitched].handed_out = false;
    }
    taken.parts.clear();
    taken_.give_back(number);
    while (std::ssize(idle_stitches_) > limits_.stitches) {
      unstitch(least_recent_.begin()->second);
    }
  }

  bool trim() override {
    bool any = small_.trim();
    // Also those of which a part is out by itself: only what is handed out whole stays.
    for (std::uint32_t s = 0; s < stitches_.size(); ++s) {
      if (stitches_[s].live && !stitches_[s].handed_out) {
        unstitch(s);
      }
    }
    while (!idle_.empty()) {
      destroy(idle_.begin()->second);
      any = true;
    }
    return any;
  }

  /// What could be stitched.
  [[nodiscard]] Bytes largest_free() const override {
    Bytes sum{};
    for (const auto& [size, p] : idle_) {
      sum += size;
    }
    return std::max(sum, small_.largest_free());
  }

  /// Memory shows where the program sees it: under a stitched block that is handed out, else under
  /// the primitive block that it is.
  void append_to(HeapView& view) const override {
    const std::size_t before = view.segments.size();
    small_.append_to(view);
    for (std::size_t i = before; i < view.segments.size(); ++i) {
      view.segments[i].small_pool = true;
    }
    std::vector<bool> stitched(primitives_.size());
    for (const Taken& taken : taken_) {
      if (taken.stitched == kNone || taken.parts.empty()) {
        continue;
      }
      for (const std::uint32_t p : taken.parts) {
        stitched[p] = true;
      }
      const Stitched& s = stitches_[taken.stitched];
      view.segments.push_back({.address = s.address, .size = s.size, .stream = stream_});
      view.segments.back().blocks.push_back({.address = s.address,
                                             .size = s.size,
                                             .state = BlockState::allocated,
                                             .stream = stream_});
    }
    for (std::uint32_t i = 0; i < primitives_.size(); ++i) {
      const Primitive& p = primitives_[i];
      if (p.live && !stitched[i]) {
        view.segments.push_back({.address = p.address, .size = p.size, .stream = stream_});
        view.segments.back().blocks.push_back(
            {.address = p.address,
             .size = p.size,
             .state = p.active ? BlockState::allocated : BlockState::free,
             .stream = stream_});
      }
    }
  }

 private:
  static constexpr std::uint32_t kNone = BlockList::kNone;
  struct Primitive {
    Address address{};
    Bytes size{};
    std::vector<PhysicalId> chunks{};
    std::vector<std::uint32_t> stitches{};  ///< that it is part of
    Address reservation{};
    bool active{};
    bool live{};
  };
  struct Stitched {
    Address address{};
    Bytes size{};
    std::vector<std::uint32_t> parts{};
    std::int64_t active_parts{};
    std::int64_t used{};  ///< clock of its last use
    bool handed_out{};    ///< as a whole
    bool live{};
  };
  struct Taken {
    std::vector<std::uint32_t> parts{};
    std::uint32_t stitched{kNone};
  };
  struct Reservation {
    Bytes size{};
    Bytes mapped{};
  };

  static bool is_small(Bytes size) { return size <= SmallSegments::kLargestRequest; }
  [[nodiscard]] bool may_split(Bytes size) const {
    return size > kChunk && size >= limits_.fragment;
  }

  Grant hand_out(std::vector<std::uint32_t> parts, Address address, Bytes size,
                 std::uint32_t stitched) {
    if (stitched != kNone) {
      touch(stitched);
      stitches_[stitched].handed_out = true;
    }
    const std::uint32_t number = taken_.take({std::move(parts), stitched});
    if (stitched != kNone) {
      say_moved(taken_[number], true);
    }
    return Grant{address, size, number << 1U};
  }

  /// A log shows each byte once, where the program sees it: parts go under the stitched block when
  /// it is handed out and come back with it, though the driver keeps both mapped.
  void say_moved(const Taken& taken, bool stitched) {
    const Stitched& s = stitches_[taken.stitched];
    if (!stitched) {
      upstream_.say(Action::segment_unmap, s.address, s.size, stream_);
    }
    for (const std::uint32_t p : taken.parts) {
      upstream_.say(stitched ? Action::segment_unmap : Action::segment_map, primitives_[p].address,
                    primitives_[p].size, stream_);
    }
    if (stitched) {
      upstream_.say(Action::segment_map, s.address, s.size, stream_);
    }
  }

  void touch(std::uint32_t s) {
    least_recent_.erase({stitches_[s].used, s});
    stitches_[s].used = ++clock_;
    if (stitches_[s].active_parts == 0) {
      least_recent_.emplace(stitches_[s].used, s);
    }
  }

  void set_active(std::uint32_t number, bool active) {
    Primitive& p = primitives_[number];
    p.active = active;
    if (active) {
      idle_.erase({p.size, number});
    } else {
      idle_.emplace(p.size, number);
    }
    for (const std::uint32_t s : p.stitches) {
      Stitched& stitched = stitches_[s];
      stitched.active_parts += active ? 1 : -1;
      if (active && stitched.active_parts == 1) {
        idle_stitches_.erase({stitched.size, s});
        least_recent_.erase({stitched.used, s});
      } else if (!active && stitched.active_parts == 0) {
        idle_stitches_.emplace(stitched.size, s);
        least_recent_.emplace(stitched.used, s);
      }
    }
  }

  std::uint32_t new_primitive() {
    const std::uint32_t number = primitives_.take();
    primitives_[number].live = true;
    return number;
  }

  /// An idle primitive block of new memory, or kNone with nothing taken.
  std::uint32_t create(Bytes size) {
    std::vector<PhysicalId> chunks;
    for (Bytes got{}; got < size; got += kChunk) {
      const std::optional<PhysicalId> chunk = upstream_.create(kChunk);
      if (!chunk) {
        for (const PhysicalId physical : chunks) {
          upstream_.destroy(physical, kChunk);
        }
        return kNone;
      }
      chunks.push_back(*chunk);
    }
    const std::optional<Address> address = upstream_.device().reserve(size);
    if (!address) {
      for (const PhysicalId physical : chunks) {
        upstream_.destroy(physical, kChunk);
      }
      return kNone;
    }
    map(*address, chunks);
    upstream_.say(Action::segment_map, *address, size, stream_);
    reservations_.emplace(*address, Reservation{size, size});
    const std::uint32_t number = new_primitive();
    Primitive& p = primitives_[number];
    p.address = *address;
    p.size = size;
    p.chunks = std::move(chunks);
    p.reservation = *address;
    idle_.emplace(size, number);
    return number;
  }

  void map(Address address, const std::vector<PhysicalId>& chunks) {
    upstream_.device().map_run(address, chunks);
  }

  /// Gives an idle primitive block back. Precondition: no stitched block holds it.
  void destroy(std::uint32_t number) {
    Primitive& p = primitives_[number];
    check(p.stitches.empty(), "a part of a stitched block cannot go");
    idle_.erase({p.size, number});
    upstream_.device().unmap(p.address, p.size);
    for (const PhysicalId chunk : p.chunks) {
      upstream_.destroy(chunk, kChunk);
    }
    upstream_.say(Action::segment_unmap, p.address, p.size, stream_);
    const auto reservation = reservations_.find(p.reservation);
    reservation->second.mapped -= p.size;
    if (reservation->second.mapped == Bytes{}) {
      upstream_.device().unreserve(reservation->first, reservation->second.size);
      reservations_.erase(reservation);
    }
    p.live = false;
    primitives_.give_back(number);
  }

  /// The idle `number` keeps its first `size` bytes; the rest is a new idle block. Stitched blocks
  /// that hold it now hold both.
  void split(std::uint32_t number, Bytes size) {
    const std::uint32_t rest = new_primitive();
    Primitive& front = primitives_[number];
    Primitive& back = primitives_[rest];
    idle_.erase({front.size, number});
    back.address = front.address + size;
    back.size = front.size - size;
    back.reservation = front.reservation;
    back.stitches = front.stitches;
    const auto keeps = static_cast<std::ptrdiff_t>(size.count() / kChunk.count());
    back.chunks.assign(front.chunks.begin() + keeps, front.chunks.end());
    front.chunks.resize(static_cast<std::size_t>(keeps));
    front.size = size;
    for (const std::uint32_t s : front.stitches) {
      auto& parts = stitches_[s].parts;
      parts.insert(std::next(std::find(parts.begin(), parts.end(), number)), rest);
    }
    idle_.emplace(front.size, number);
    idle_.emplace(back.size, rest);
  }

  /// A stitched block over active parts; nullopt: no address space.
  std::optional<std::uint32_t> stitch(const std::vector<std::uint32_t>& parts, Bytes size) {
    const std::optional<Address> address = upstream_.device().reserve(size);
    if (!address) {
      return std::nullopt;
    }
    const std::uint32_t s = stitches_.take({.address = *address,
                                            .size = size,
                                            .parts = parts,
                                            .active_parts = std::ssize(parts),
                                            .used = ++clock_,
                                            .live = true});
    Address at = *address;
    for (const std::uint32_t p : parts) {
      map(at, primitives_[p].chunks);
      at = at + primitives_[p].size;
      primitives_[p].stitches.push_back(s);
    }
    return s;
  }

  void unstitch(std::uint32_t s) {
    Stitched& stitched = stitches_[s];
    idle_stitches_.erase({stitched.size, s});
    least_recent_.erase({stitched.used, s});
    upstream_.device().unmap(stitched.address, stitched.size);
    upstream_.device().unreserve(stitched.address, stitched.size);
    for (const std::uint32_t p : stitched.parts) {
      std::erase(primitives_[p].stitches, s);
    }
    stitched.live = false;
    stitches_.give_back(s);
  }

  Upstream& upstream_;
  StreamId stream_;
  GmlakeLimits limits_;
  SmallHeap small_;
  Slots<Primitive> primitives_{};
  Slots<Stitched> stitches_{};
  Slots<Taken> taken_{};
  std::map<Address, Reservation> reservations_{};
  std::set<std::pair<Bytes, std::uint32_t>> idle_{};                 ///< primitive, by size
  std::set<std::pair<Bytes, std::uint32_t>> idle_stitches_{};        ///< by size
  std::set<std::pair<std::int64_t, std::uint32_t>> least_recent_{};  ///< idle stitched, by use
  std::int64_t clock_{};
};

}  // namespace

Expected<std::unique_ptr<Allocator>> make_gmlake(Device& device, Streams& streams,
                                                 const PolicyOptions& options) {
  GmlakeLimits limits;
  const std::array settings{
      PolicySetting{.key = "frag_limit", .size = &limits.fragment, .minimum = kChunk.count()},
      PolicySetting{.key = "stitches", .count = &limits.stitches}};
  if (const auto read = read_settings("gmlake", options, settings); !read) {
    return read.error();
  }
  return std::unique_ptr<Allocator>{std::make_unique<StreamHeaps>(
      device, streams, StreamHeaps::Options{.name = "gmlake", .limit = options.limit},
      [limits](Upstream& upstream, StreamId stream) {
        return std::make_unique<GmlakeHeap>(upstream, stream, limits);
      })};
}

}  // namespace peakcast
