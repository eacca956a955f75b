#include "sim/app/verification.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <string_view>
#include <utility>

namespace peakcast::app {
namespace {

/// The recording's final statistics that a policy's books know and that came out otherwise.
std::vector<Difference> final_differences(const Recording& recording, const Statistics& now) {
  struct Row {
    std::string_view metric;
    const Level* level;
  };
  const std::array<Row, 7> rows{{{"requested_bytes", &now.requested},
                                 {"allocated_bytes", &now.allocated},
                                 {"active_bytes", &now.active},
                                 {"reserved_bytes", &now.reserved},
                                 {"inactive_split_bytes", &now.inactive_split},
                                 {"segment", &now.segments},
                                 {"allocation", &now.allocations}}};
  const auto value_of = [&](const std::string& name) -> std::optional<std::int64_t> {
    for (const Row& row : rows) {
      const std::string prefix = std::string{row.metric} + ".all.";
      if (name == prefix + "current") {
        return row.level->current;
      }
      if (name == prefix + "peak") {
        return row.level->peak;
      }
      if (name == prefix + "allocated") {
        return row.level->allocated;
      }
      if (name == prefix + "freed") {
        return row.level->freed();
      }
    }
    if (name == "num_alloc_retries") {
      return now.num_alloc_retries;
    }
    if (name == "num_ooms") {
      return now.num_ooms;
    }
    if (name == "num_device_alloc") {
      return now.num_device_alloc;
    }
    if (name == "num_device_free") {
      return now.num_device_free;
    }
    return std::nullopt;
  };
  std::vector<Difference> out;
  for (const RecordedFigure& figure : recording.final_statistics) {
    // Peaks and counts are since the program began, of a recording that began later only the levels
    // can be compared.
    if (recording.head_lost && !figure.name.ends_with(".current")) {
      continue;
    }
    const auto value = value_of(figure.name);
    if (value && *value != figure.value) {
      out.push_back({figure.name, figure.value, *value});
    }
  }
  return out;
}

/// How many segments of the recording's final snapshot have no equal in the replay's heap (address
/// apart when it was modelled), plus those of the replay that are too many.
std::int64_t segment_differences(const Recording& recording, const HeapView& heap,
                                 bool with_addresses) {
  if (recording.segments.empty()) {
    return 0;
  }
  using Shape = std::vector<std::int64_t>;
  std::vector<Shape> was;
  std::vector<Shape> is;
  for (const RecordedSegment& segment : recording.segments) {
    Shape shape{with_addresses ? static_cast<std::int64_t>(segment.address.value()) : 0,
                segment.stream.value, segment.size.count()};
    for (const RecordedBlock& block : segment.blocks) {
      shape.insert(shape.end(), {block.size.count(), block.active ? block.requested.count() : 0,
                                 block.allocated ? 2 : (block.active ? 1 : 0)});
    }
    was.push_back(std::move(shape));
  }
  for (const SegmentView& segment : heap.segments) {
    Shape shape{with_addresses ? static_cast<std::int64_t>(segment.address.value()) : 0,
                segment.stream.value, segment.size.count()};
    for (const BlockView& block : segment.blocks) {
      const bool in_use = block.state != BlockState::free;
      shape.insert(shape.end(), {block.size.count(), in_use ? block.requested.count() : 0,
                                 block.state == BlockState::allocated ? 2 : (in_use ? 1 : 0)});
    }
    is.push_back(std::move(shape));
  }
  std::sort(was.begin(), was.end());
  std::sort(is.begin(), is.end());
  std::vector<Shape> apart;
  std::set_symmetric_difference(was.begin(), was.end(), is.begin(), is.end(),
                                std::back_inserter(apart));
  return static_cast<std::int64_t>(apart.size());
}

}  // namespace

Listener::Listener(const Recording& recording, bool with_addresses, EventSink* next)
    : recording_{recording}, with_addresses_{with_addresses}, further_{next} {}

void Listener::on_event(const AllocatorEvent& event) {
  if (further_ != nullptr) {
    further_->on_event(event);
  }
  const std::vector<AllocatorEvent>& recorded = recording_.events;
  next_ = after_snapshots(next_);
  if (next_ < recorded.size() && same(recorded[next_], event)) {
    ++matched_;
  } else if (!mismatch_) {
    mismatch_ = Mismatch{next_, std::nullopt, event};
    if (next_ < recorded.size()) {
      mismatch_->recorded = recorded[next_];
    }
  }
  next_ += next_ < recorded.size() ? 1U : 0U;
}

Verification Listener::verification(const Allocator& allocator) const {
  const std::vector<AllocatorEvent>& recorded = recording_.events;
  Verification found{
      .matched = matched_,
      .mismatch = mismatch_,
      .differences = final_differences(recording_, allocator.statistics()),
      .segments_apart = segment_differences(recording_, allocator.view(), with_addresses_),
      .with_addresses = with_addresses_};
  found.events = std::count_if(recorded.begin(), recorded.end(), [](const AllocatorEvent& event) {
    return event.action != Action::snapshot;
  });
  // Entries that the replay did not come to are a mismatch too.
  const std::size_t left = after_snapshots(next_);
  if (left < recorded.size() && !found.mismatch) {
    found.mismatch = Mismatch{left, recorded[left], std::nullopt};
  }
  return found;
}

std::size_t Listener::after_snapshots(std::size_t event) const {
  const std::vector<AllocatorEvent>& recorded = recording_.events;
  while (event < recorded.size() && recorded[event].action == Action::snapshot) {
    ++event;
  }
  return event;
}

bool Listener::same(const AllocatorEvent& a, const AllocatorEvent& b) const {
  // An oom's address is the free memory of a card that others may have used too.
  const bool address = with_addresses_ && a.action != Action::oom;
  return a.action == b.action && a.size == b.size && a.stream == b.stream &&
         (!address || a.address == b.address);
}

}  // namespace peakcast::app
