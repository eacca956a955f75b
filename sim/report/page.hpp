#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/units.hpp"
#include "sim/report/json.hpp"
#include "sim/trace/trace.hpp"

namespace peakcast {

/// What a page shows of one policy's run: blocks and segments with the entries between which they
/// live, so that the page can draw any moment. Entries are numbered in the order of the log; one
/// that never comes is `times_us.size()`.
struct PageRun {
  struct Block {
    std::uint32_t begin{};    ///< the entry that handed it out
    std::uint32_t dropped{};  ///< free_requested
    std::uint32_t end{};      ///< free_completed
    Address address{};
    Bytes size{};
    Bytes requested{};
    std::uint32_t label{};  ///< index into labels + 1, 0 for none
    Category category{};
    std::uint32_t stream{};
  };
  struct Segment {
    std::uint32_t begin{};
    std::uint32_t end{};
    Address address{};
    Bytes size{};
    std::uint32_t stream{};
  };
  struct Level {
    std::uint32_t entry{};  ///< after this many entries
    std::int64_t allocated{};
    std::int64_t reserved{};
  };
  struct Mark {
    std::uint32_t entry{};
    bool iteration{};  ///< else a phase
    std::string name{};
  };
  std::string name{};  ///< the policy
  bool timed{};        ///< times are a clock's; else only their order means something
  std::vector<std::int64_t> times_us{};  ///< per entry
  std::vector<Block> blocks{};
  std::vector<Segment> segments{};
  std::vector<Level> levels{};  ///< the policy's own books, where they change
  std::vector<Mark> marks{};
  std::vector<std::uint32_t> ooms{};  ///< entries at which a request failed
  std::vector<std::string> labels{};  ///< stacks, the innermost frame first, " < " between frames
  std::optional<Bytes> limit{};
  Bytes capacity{};
  Bytes outside{};
};

/// One page of HTML that needs nothing else: no network, no other file. `answer` is the command's
/// whole JSON report, whose figures the page shows; `runs` (may be empty) are drawn. Equal inputs
/// give equal bytes. Some 6 bytes an entry (gzip in base64). O(entries).
[[nodiscard]] std::string report_page(std::string_view title, const Json& answer,
                                      const std::vector<PageRun>& runs);

}  // namespace peakcast
