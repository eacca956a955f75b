#include "tests/support/duel.hpp"

#include <algorithm>
#include <array>
#include <ostream>
#include <sstream>
#include <string_view>
#include <utility>
#include <variant>

#include "allocators/pytorch/settings.hpp"
#include "sim/alloc/check_heap.hpp"
#include "tests/support/memory_stats.hpp"

namespace peakcast::support {
namespace {

using namespace literals;

constexpr std::array<std::string_view, 20> kSettings{
    "",
    "expandable_segments:True",
    "max_split_size_mb:32",
    "max_split_size_mb:64",
    "garbage_collection_threshold:0.4",
    "garbage_collection_threshold:0.8",
    "roundup_power2_divisions:2",
    "roundup_power2_divisions:[1:4,2:2,16:8,>:4]",
    "max_split_size_mb:48,garbage_collection_threshold:0.6",
    "max_split_size_mb:100,max_non_split_rounding_mb:40",
    "expandable_segments:True,roundup_power2_divisions:4",
    "expandable_segments:True,garbage_collection_threshold:0.5",
    "expandable_segments:True,max_split_size_mb:32",
    "max_split_size_mb:48,roundup_power2_divisions:4,garbage_collection_threshold:0.7",
    "large_segment_size_mb:64",
    "large_segment_size_mb:11",
    "large_segment_size_mb:21,max_split_size_mb:21",
    "expandable_segments:True,large_segment_size_mb:32",
    "expandable_segments:True,max_split_size_mb:64,garbage_collection_threshold:0.3",
    "per_process_memory_fraction:0.75",
};
// Which kind each word stands for, in the enumeration's order.
constexpr std::array<std::string_view, Operation::kKinds> kKindNames{
    "allocate",    "free",         "record_stream", "complete", "empty_cache", "poll",
    "create_pool", "destroy_pool", "begin_pool",    "end_pool", "configure",   "set_limit"};

pytorch::Settings settings_at(std::size_t index, const pytorch::Version& version) {
  const auto parsed = pytorch::parse_settings(kSettings.at(index % kSettings.size()), version);
  // An older release does not know every setting: it then runs on defaults.
  return parsed ? *parsed : pytorch::Settings{};
}

std::string text_of(const AllocOutcome& outcome) {
  std::ostringstream out;
  if (const auto* placement = std::get_if<Placement>(&outcome)) {
    out << "placed at " << placement->address.value() << ", " << placement->size.count();
  } else {
    const OutOfMemory& oom = std::get<OutOfMemory>(outcome);
    out << "out of memory: requested " << oom.requested.count() << " rounded "
        << oom.rounded.count() << " attempted " << oom.attempted.count() << " device_free "
        << oom.device_free.count() << " largest " << oom.largest_free_block.count() << " allocated "
        << oom.allocated.count() << " reserved " << oom.reserved.count();
  }
  return out.str();
}

std::string text_of(const AllocatorEvent& event) {
  std::ostringstream out;
  out << to_string(event.action) << " " << event.address.value() << " " << event.size.count()
      << " stream " << event.stream.value;
  return out.str();
}

std::string text_of(const BlockView& block) {
  std::ostringstream out;
  out << "block " << block.address.value() << " size " << block.size.count() << " requested "
      << block.requested.count() << " state " << static_cast<int>(block.state) << " stream "
      << block.stream.value;
  return out.str();
}

std::string text_of(const SegmentView& segment) {
  std::ostringstream out;
  out << "segment " << segment.address.value() << " size " << segment.size.count() << " stream "
      << segment.stream.value << (segment.expandable ? " expandable" : "")
      << (segment.small_pool ? " small" : " large");
  return out.str();
}

std::optional<std::string> differ(const std::string& policy, const std::string& naive) {
  if (policy == naive) {
    return std::nullopt;
  }
  return "policy: " + policy + "\nnaive:  " + naive;
}

bool same(const BlockView& a, const BlockView& b) {
  return a.address == b.address && a.size == b.size && a.requested == b.requested &&
         a.state == b.state && a.stream == b.stream;
}
bool same(const SegmentView& a, const SegmentView& b) {
  return a.address == b.address && a.size == b.size && a.stream == b.stream &&
         a.expandable == b.expandable && a.small_pool == b.small_pool;
}

template <class T, class Same>
std::optional<std::string> first_unequal(const std::vector<T>& a, const std::vector<T>& b,
                                         Same equal) {
  for (std::size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    if (i >= a.size() || i >= b.size() || !equal(a[i], b[i])) {
      return differ(i < a.size() ? text_of(a[i]) : "nothing",
                    i < b.size() ? text_of(b[i]) : "nothing");
    }
  }
  return std::nullopt;
}

std::optional<std::string> compare_views(const HeapView& a, const HeapView& b) {
  if (auto trouble = first_unequal(a.segments, b.segments,
                                   [](const auto& x, const auto& y) { return same(x, y); })) {
    return trouble;
  }
  for (std::size_t i = 0; i < a.segments.size(); ++i) {
    if (auto trouble = first_unequal(a.segments[i].blocks, b.segments[i].blocks,
                                     [](const auto& x, const auto& y) { return same(x, y); })) {
      return trouble;
    }
  }
  return std::nullopt;
}

std::string level_text(const Statistics& s) {
  std::ostringstream out;
  for (const Level& level : {s.requested, s.allocated, s.active, s.reserved, s.inactive_split,
                             s.segments, s.allocations}) {
    out << level.current << "/" << level.peak << "/" << level.allocated << " ";
  }
  out << s.num_alloc_retries << " " << s.num_ooms << " " << s.num_device_alloc << " "
      << s.num_device_free << " " << s.num_sync_all_streams;
  return out.str();
}

std::string device_text(const SimulatedDevice& device) {
  const DeviceCounts& c = device.counts();
  std::ostringstream out;
  out << "free " << device.free_memory().count() << " peak " << device.peak_used().count()
      << " acquire " << c.acquire << " release " << c.release << " reserve " << c.reserve
      << " unreserve " << c.unreserve << " create " << c.create << " destroy " << c.destroy
      << " map " << c.map << " unmap " << c.unmap;
  return out.str();
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Operation& operation) {
  return out << "{Kind::" << kKindNames.at(static_cast<std::size_t>(operation.kind)) << ", "
             << operation.a << ", " << operation.b << "}";
}

std::string as_code(std::span<const Operation> program) {
  std::ostringstream out;
  for (const Operation& operation : program) {
    out << "    " << operation << ",\n";
  }
  return out.str();
}

std::span<const std::string_view> duel_settings() { return kSettings; }

std::ostream& operator<<(std::ostream& out, const DuelSetup& setup) {
  out << "DuelSetup{.settings = " << setup.settings << ", .limit = ";
  if (setup.limit) {
    out << "Bytes{" << setup.limit->count() << "}";
  } else {
    out << "{}";
  }
  return out << ", .total = Bytes{" << setup.total.count() << "}, .version = \"" << setup.version
             << "\", .free_waits = " << (setup.free_waits ? "true" : "false")
             << ", .quiet = " << (setup.quiet ? "true" : "false") << "}  // "
             << kSettings.at(setup.settings % kSettings.size());
}

Duel::Side::Side(const DuelSetup& setup)
    : device{{.spec = {.name = "duel", .total = setup.total, .granularity = 2_MiB},
              .streams = setup.free_waits ? &streams : nullptr}},
      own_addresses{Address{0x6f8000000000}, Address{0x502000000}},
      own{{.spec = {.name = "own", .total = setup.total * 2, .granularity = 2_MiB},
           .addresses = &own_addresses,
           .streams = setup.free_waits ? &streams : nullptr}} {}

Duel::Duel(const DuelSetup& setup)
    : policy_side_{setup},
      naive_side_{setup},
      version_{pytorch::find_version(setup.version).value()},
      policy_{policy_side_.device,
              policy_side_.streams,
              {.version = version_,
               .settings = settings_at(setup.settings, version_),
               .limit = setup.limit}},
      naive_{naive_side_.device,
             naive_side_.streams,
             {.version = version_,
              .settings = settings_at(setup.settings, version_),
              .limit = setup.limit}},
      at_start_{settings_at(setup.settings, version_)},
      ever_expandable_{at_start_.expandable_segments} {
  if (!setup.quiet) {
    policy_.set_sink(&policy_side_.log);
    naive_.set_sink(&naive_side_.log);
  }
}

Duel::~Duel() = default;

std::optional<std::string> Duel::step(const Operation& operation) {
  if (auto trouble = apply(operation)) {
    return trouble;
  }
  return compare();
}

std::optional<std::string> Duel::allocate(Bytes size, StreamId stream) {
  const AllocRequest request{.size = size, .stream = stream};
  const AllocOutcome policy = policy_.allocate(request);
  const AllocOutcome naive = naive_.allocate(request);
  const auto* a = std::get_if<Placement>(&policy);
  const auto* b = std::get_if<Placement>(&naive);
  if (a != nullptr && b != nullptr) {
    live_.push_back(Live{a->block, b->block});
  }
  return differ(text_of(policy), text_of(naive));
}

std::optional<std::string> Duel::apply(const Operation& operation) {
  using Kind = Operation::Kind;
  const auto pick = [&](std::size_t of) {
    return static_cast<std::size_t>(static_cast<std::uint64_t>(operation.a) % of);
  };
  const StreamId stream{operation.b % kStreams};
  const auto bits = static_cast<std::uint64_t>(operation.a);
  switch (operation.kind) {
    case Kind::allocate:
      return allocate(Bytes{std::max<std::int64_t>(operation.a, 1)}, stream);
    case Kind::free:
      if (!live_.empty()) {
        const std::size_t at = pick(live_.size());
        policy_.deallocate(live_[at].policy);
        naive_.deallocate(live_[at].naive);
        live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(at));
      }
      break;
    case Kind::record_stream:
      if (!live_.empty()) {
        const Live& live = live_[pick(live_.size())];
        policy_.record_stream(live.policy, stream);
        naive_.record_stream(live.naive, stream);
      }
      break;
    case Kind::complete:
      policy_side_.streams.complete(stream, bits % 8);
      naive_side_.streams.complete(stream, bits % 8);
      break;
    case Kind::empty_cache:
      policy_.empty_cache();
      naive_.empty_cache();
      break;
    case Kind::poll:
      policy_.poll();
      naive_.poll();
      break;
    case Kind::create_pool:
      if (pools_made_ < 8) {
        ++pools_made_;
        const auto options = [&](Side& side) {
          return pytorch::CachingAllocator::MemPoolOptions{
              .use_on_oom = (bits & 1) != 0,
              .no_split = (bits & 2) != 0,
              .device = (bits & 4) != 0 ? &side.own : nullptr};
        };
        pools_.push_back(policy_.create_pool(options(policy_side_)));
        if (naive_.create_pool(options(naive_side_)) != pools_.back()) {
          return "pools get other ids";
        }
      }
      break;
    case Kind::destroy_pool:
      // PyTorch asserts that no capture is under way, and forgets a pool by a count of device
      // allocations that expandable segments break (one for a malloc of several mappings): with
      // live blocks that ends in memory errors there, so no program does it here.
      if (!pools_.empty() && diversions_.empty() && (!ever_expandable_ || live_.empty())) {
        const std::size_t at = pick(pools_.size());
        policy_.destroy_pool(pools_[at]);
        naive_.destroy_pool(pools_[at]);
        pools_.erase(pools_.begin() + static_cast<std::ptrdiff_t>(at));
      }
      break;
    case Kind::begin_pool:
      if (!pools_.empty()) {
        const pytorch::PoolId id = pools_[pick(pools_.size())];
        if (std::find(diversions_.begin(), diversions_.end(), id) == diversions_.end()) {
          const std::uint32_t from = operation.b % (kStreams + 1);
          const auto filter = [from](StreamId s) { return from == kStreams || s.value == from; };
          policy_.begin_allocate_to_pool(id, filter);
          naive_.begin_allocate_to_pool(id, filter);
          diversions_.push_back(id);
        }
      }
      break;
    case Kind::end_pool:
      if (!diversions_.empty()) {
        const std::size_t at = pick(diversions_.size());
        policy_.end_allocate_to_pool(diversions_[at]);
        naive_.end_allocate_to_pool(diversions_[at]);
        diversions_.erase(diversions_.begin() + static_cast<std::ptrdiff_t>(at));
      }
      break;
    case Kind::configure: {
      pytorch::Settings settings = settings_at(pick(kSettings.size()), version_);
      // A split block that becomes oversize would have PyTorch's selective release free the middle
      // of a segment. One settings string cannot do that (max_split_size is at least the large
      // segment), two after another can; so no program does it here.
      settings.max_split_size = at_start_.max_split_size;
      if (at_start_.max_split_size != pytorch::Settings::kUnlimited) {
        settings.large_segment_size = at_start_.large_segment_size;
        settings.max_non_split_rounding = at_start_.max_non_split_rounding;
        settings.expandable_segments = at_start_.expandable_segments;
      }
      ever_expandable_ = ever_expandable_ || settings.expandable_segments;
      policy_.set_settings(settings);
      naive_.set_settings(settings);
      break;
    }
    case Kind::set_limit: {
      const std::int64_t mebibytes = static_cast<std::int64_t>(bits % 4096);
      const auto limit = mebibytes == 0 ? std::nullopt : std::optional{Bytes{mebibytes << 20}};
      policy_.set_limit(limit);
      naive_.set_limit(limit);
      break;
    }
  }
  return std::nullopt;
}

std::optional<std::string> Duel::compare() {
  if (auto trouble = first_unequal(policy_side_.log.events(), naive_side_.log.events(),
                                   [](const auto& a, const auto& b) { return a == b; })) {
    return "events\n" + *trouble;
  }
  policy_side_.log.clear();
  naive_side_.log.clear();
  if (const std::string figure = first_difference(memory_stats(policy_), naive_.memory_stats());
      !figure.empty()) {
    return "statistics of policy and naive: " + figure;
  }
  if (auto trouble = differ(level_text(policy_.statistics()), level_text(naive_.statistics()))) {
    return "statistics\n" + *trouble;
  }
  const HeapView view = policy_.view();
  if (auto trouble = compare_views(view, naive_.view())) {
    return "heap\n" + *trouble;
  }
  if (const auto sound = check_heap(view, policy_.statistics(), {.coalesces = true}); !sound) {
    return to_string(sound.error());
  }
  for (const auto& [policy, naive] : {std::pair{&policy_side_.device, &naive_side_.device},
                                      std::pair{&policy_side_.own, &naive_side_.own}}) {
    if (auto trouble = differ(device_text(*policy), device_text(*naive))) {
      return "device\n" + *trouble;
    }
  }
  if (policy_side_.streams.outstanding() != naive_side_.streams.outstanding()) {
    return "events of streams are not forgotten alike";
  }
  return std::nullopt;
}

RandomProgram random_program(std::uint64_t seed, std::size_t length) {
  using Kind = Operation::Kind;
  Random random{seed};
  RandomProgram program;
  const Bytes total = random.one_of({64_MiB, 200_MiB, 512_MiB, 1_GiB, 3_GiB});
  program.setup = DuelSetup{
      .settings = static_cast<std::size_t>(random.below(kSettings.size())),
      .limit = random.one_in(2) ? std::optional{Bytes{static_cast<std::int64_t>(
                                      random.below(static_cast<std::uint64_t>(total.count())))}}
                                : std::nullopt,
      .total = total,
      .version =
          random.one_of<std::string_view>({"", "", "", "2.10", "2.9", "2.8", "2.7", "2.6", "2.5"}),
      .free_waits = random.one_in(2),
      .quiet = seed % 2 != 0};
  const bool streams = random.one_in(2);
  const bool pools = random.one_in(3);
  const bool changes = random.one_in(4);
  const std::uint64_t style = random.below(4);
  const auto size = [&]() -> std::int64_t {
    if (random.one_in(4)) {  // around every bound of the rules
      const std::int64_t base = random.one_of<std::int64_t>(
          {512, 1 << 19, 1 << 20, 2 << 20, 3 << 20, 10 << 20, 11 << 20, 19 << 20, 20 << 20,
           21 << 20, 32 << 20, 40 << 20, 48 << 20, 64 << 20});
      return base + random.one_of<std::int64_t>({0, 0, 0, 1, -1, 512, -512});
    }
    if (random.one_in(200)) {  // more than any card has
      return random.size_of_bits(38, 61);
    }
    switch (style) {
      case 0:
        return random.size_of_bits(0, 20);
      case 1:
        return random.size_of_bits(20, 27);
      case 2:
        return random.one_of<std::int64_t>({4096, 524288, 1 << 20, 5 << 20, 12 << 20, 24 << 20});
      default:
        return random.size_of_bits(0, 26);
    }
  };
  std::uint64_t keen = 60;  // of 100: how often memory is asked for rather than dropped
  for (std::size_t i = 0; i < length; ++i) {
    if (random.one_in(40)) {
      keen = 35 + random.below(40);
    }
    const auto stream = static_cast<std::uint32_t>(streams ? random.below(Duel::kStreams) : 0);
    const auto any = static_cast<std::int64_t>(random.below(1 << 20));
    Operation step{.kind = Kind::free, .a = any, .b = stream};
    if (pools && random.one_in(12)) {
      step.kind = random.one_of({Kind::create_pool, Kind::create_pool, Kind::destroy_pool,
                                 Kind::begin_pool, Kind::begin_pool, Kind::begin_pool,
                                 Kind::end_pool, Kind::end_pool, Kind::end_pool});
      step.b = static_cast<std::uint32_t>(random.below(Duel::kStreams + 1));
    } else if (changes && random.one_in(50)) {
      step.kind = random.one_of({Kind::configure, Kind::set_limit});
    } else if (random.one_in(80)) {
      step.kind = random.one_of({Kind::empty_cache, Kind::poll});
    } else if (streams && random.one_in(6)) {
      step.kind = random.one_of({Kind::record_stream, Kind::complete});
    } else if (random.below(100) < keen) {
      step.kind = Kind::allocate;
      step.a = size();
    }
    program.steps.push_back(step);
  }
  return program;
}

std::optional<std::string> run(const DuelSetup& setup, std::span<const Operation> program) {
  Duel duel{setup};
  for (std::size_t i = 0; i < program.size(); ++i) {
    if (auto trouble = duel.step(program[i])) {
      std::ostringstream out;
      out << "step " << i << " " << program[i] << ": " << *trouble;
      return out.str();
    }
  }
  return std::nullopt;
}

std::vector<Operation> shrink(const DuelSetup& setup, std::vector<Operation> program) {
  for (std::size_t chunk = std::max<std::size_t>(program.size() / 2, 1);; chunk /= 2) {
    for (std::size_t from = 0; from < program.size();) {
      std::vector<Operation> fewer = program;
      const auto first = fewer.begin() + static_cast<std::ptrdiff_t>(from);
      fewer.erase(first, first + static_cast<std::ptrdiff_t>(std::min(chunk, fewer.size() - from)));
      if (run(setup, fewer)) {
        program = std::move(fewer);
      } else {
        from += chunk;
      }
    }
    if (chunk == 1) {
      return program;
    }
  }
}

}  // namespace peakcast::support
