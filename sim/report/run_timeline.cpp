#include "sim/report/run_timeline.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "sim/report/timeline.hpp"

namespace peakcast {
namespace {

constexpr std::size_t kNamedBlocks = 40;  ///< a track each: what a reader can take in

class Writer {
 public:
  Writer(TimelineWriter& out, const PageRun& run) : out_{out}, run_{run} {}

  void write() {
    put_levels();
    put_categories();
    put_instants();
    put_marks();
    put_blocks_at_peak();
  }

 private:
  [[nodiscard]] SimTime at(std::size_t entry) const {
    constexpr std::int64_t kNanoseconds = 1000;
    if (run_.times_us.empty()) {
      return {};
    }
    const std::size_t last = std::min(entry, run_.times_us.size() - 1);
    const std::int64_t time =
        run_.timed ? run_.times_us[last] - run_.times_us.front() : static_cast<std::int64_t>(last);
    return SimTime{SimDuration{time * kNanoseconds}};
  }
  /// When what ends at `entry` ends: the end of the run is behind its last entry.
  [[nodiscard]] SimTime end_at(std::size_t entry) const {
    return at(entry) + SimDuration{entry >= run_.times_us.size() ? 1000 : 0};
  }

  void put_levels() {
    for (const PageRun::Level& level : run_.levels) {
      out_.counter("memory", at(level.entry == 0 ? 0 : level.entry - 1),
                   {{"allocated_bytes", level.allocated}, {"reserved_bytes", level.reserved}});
    }
  }

  /// One counter a category, where it changes.
  void put_categories() {
    std::vector<std::pair<std::uint32_t, std::size_t>> changes;  // entry, block; frees last
    for (std::size_t i = 0; i < run_.blocks.size(); ++i) {
      changes.emplace_back(run_.blocks[i].begin, i);
      changes.emplace_back(run_.blocks[i].dropped, i);
    }
    std::sort(changes.begin(), changes.end());
    std::array<std::int64_t, kCategoryCount> live{};
    for (const auto& [entry, index] : changes) {
      const PageRun::Block& block = run_.blocks[index];
      if (entry >= run_.times_us.size()) {
        break;
      }
      std::int64_t& level = live.at(static_cast<std::size_t>(block.category));
      level += entry == block.begin ? block.size.count() : -block.size.count();
      out_.counter(std::string{"live: "}.append(to_string(block.category)), at(entry),
                   {{"bytes", level}});
    }
  }

  void put_instants() {
    for (const std::uint32_t entry : run_.ooms) {
      out_.instant(0, "out of memory", at(entry));
    }
    // Segments that go while the program runs: a retry, garbage collection or an emptied cache.
    std::uint32_t last = 0xffffffff;
    std::vector<std::uint32_t> ends;
    for (const PageRun::Segment& segment : run_.segments) {
      if (segment.end < run_.times_us.size()) {
        ends.push_back(segment.end);
      }
    }
    std::sort(ends.begin(), ends.end());
    for (const std::uint32_t entry : ends) {
      if (last == 0xffffffff || entry > last + 1) {
        out_.instant(0, "memory given back", at(entry));
      }
      last = entry;
    }
  }

  void put_marks() {
    out_.track(0, "phases");
    out_.track(1, "iterations");
    for (const bool iteration : {false, true}) {
      const PageRun::Mark* open = nullptr;
      const auto close = [&](std::size_t entry) {
        if (open != nullptr) {
          out_.slice(iteration ? 1 : 0, open->name, "program", at(open->entry), end_at(entry));
        }
      };
      for (const PageRun::Mark& mark : run_.marks) {
        if (mark.iteration == iteration) {
          close(mark.entry);
          open = &mark;
        } else if (mark.iteration) {
          close(mark.entry);
          open = nullptr;
        }
      }
      close(run_.times_us.size());
    }
  }

  void put_blocks_at_peak() {
    const auto peak =
        std::max_element(run_.levels.begin(), run_.levels.end(),
                         [](const auto& a, const auto& b) { return a.reserved < b.reserved; });
    if (peak == run_.levels.end()) {
      return;
    }
    const std::uint32_t moment = peak->entry == 0 ? 0 : peak->entry - 1;
    std::vector<const PageRun::Block*> live;
    for (const PageRun::Block& block : run_.blocks) {
      if (block.begin <= moment && moment < block.end) {
        live.push_back(&block);
      }
    }
    std::stable_sort(live.begin(), live.end(),
                     [](const auto* a, const auto* b) { return a->size > b->size; });
    live.resize(std::min(live.size(), kNamedBlocks));
    std::uint32_t track = 2;
    for (const PageRun::Block* block : live) {
      const std::string name = block->label == 0 ? std::string{to_string(block->category)}
                                                 : run_.labels[block->label - 1];
      out_.track(track, "at the peak, " + std::to_string(block->size.count() >> 20U) + " MiB");
      out_.slice(track, name, to_string(block->category), at(block->begin), end_at(block->end));
      ++track;
    }
  }

  TimelineWriter& out_;
  const PageRun& run_;
};

}  // namespace

void write_run_timeline(std::ostream& out, const std::vector<PageRun>& runs) {
  TimelineWriter writer{out, runs.empty() ? "peakcast" : runs.front().name};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    writer.process(static_cast<std::uint32_t>(i), runs[i].name);
    Writer{writer, runs[i]}.write();
  }
  writer.finish();
}

}  // namespace peakcast
