#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/compare_answer.hpp"
#include "sim/app/repeats.hpp"
#include "sim/core/size_text.hpp"
#include "sim/report/table.hpp"

namespace peakcast::app {
namespace {

using Row = CompareAnswer::Row;

double over_percent(std::int64_t what, Bytes floor) {
  if (floor == Bytes{}) {
    return 0.0;
  }
  // Two decimals, cut in integers so that every platform prints the same.
  __extension__ using Wide = __int128;
  const auto hundredths =
      static_cast<std::int64_t>((Wide{what} - floor.count()) * 10'000 / floor.count());
  return static_cast<double>(hundredths) / 100.0;
}

std::int64_t per_iteration(const ReplayReport& report) {
  const auto iterations = static_cast<std::int64_t>(report.iterations.size());
  return iterations == 0 ? device_calls(report.device_calls)
                         : device_calls(report.device_calls) / iterations;
}

Json row_json(const Row& row, Bytes floor, std::int64_t repeat) {
  const Statistics& statistics = row.report.statistics;
  Json json;
  json["policy"] = row.policy.text();
  json["peak_reserved_bytes"] = statistics.reserved.peak;
  json["peak_allocated_bytes"] = statistics.allocated.peak;
  json["over_floor_percent"] = over_percent(statistics.reserved.peak, floor);
  json["device_calls"] = device_calls(row.report.device_calls);
  json["device_calls_per_iteration"] = per_iteration(row.report);
  json["alloc_retries"] = statistics.num_alloc_retries;
  json["ooms"] = statistics.num_ooms;
  json["allocator_time_ns"] =
      allocator_time(row.report.device_time, row.report.program_ops).count();
  json["device_time_ns"] = row.report.device_time.count();
  json["transferred_bytes"] = row.report.transfers.bytes.count();
  json["transfer_time_ns"] = row.report.transfers.time.count();
  json["oom"] = oom_json(row.oom);
  if (repeat > 0) {
    json["repeats"] = repeats_json(repeat_costs(row.report, repeat));
  }
  return json;
}

std::string oom_text(const ReplayReport& report) {
  if (!report.oom) {
    return "-";
  }
  return report.oom->iteration >= 0 ? fmt::format("iteration {}", report.oom->iteration)
                                    : fmt::format("op {}", report.oom->op_index);
}

std::string ms_text(SimDuration time) {
  return fmt::format("{:.1f}", static_cast<double>(time.count()) / 1e6);
}

Table people_table(const std::vector<Row>& rows, Bytes floor) {
  Table table{{{"policy", Table::Align::left},
               {"reserved"},
               {"over floor"},
               {"device calls"},
               {"an iteration"},
               {"retries"},
               {"allocator ms"},
               {"transfer ms"},
               {"out of memory", Table::Align::left}}};
  for (const Row& row : rows) {
    table.add_row(
        {row.policy.text(), size_text(Bytes{row.report.statistics.reserved.peak}),
         fmt::format("{:.1f} %", over_percent(row.report.statistics.reserved.peak, floor)),
         count_text(device_calls(row.report.device_calls)), count_text(per_iteration(row.report)),
         count_text(row.report.statistics.num_alloc_retries),
         ms_text(allocator_time(row.report.device_time, row.report.program_ops)),
         row.report.transfers.bytes == Bytes{} ? "-" : ms_text(row.report.transfers.time),
         oom_text(row.report)});
  }
  return table;
}

Table programs_table(const std::vector<Row>& rows, Bytes floor, Bytes packed) {
  Table table{{{"policy"},
               {"peak_reserved_bytes"},
               {"over_floor_percent"},
               {"device_calls"},
               {"alloc_retries"},
               {"ooms"},
               {"allocator_time_ns"},
               {"transfer_time_ns"},
               {"oom_op"},
               {"floor_bytes"},
               {"packed_bytes"}}};
  for (const Row& row : rows) {
    const ReplayReport& report = row.report;
    table.add_row({row.policy.text(), std::to_string(report.statistics.reserved.peak),
                   fmt::format("{:.2f}", over_percent(report.statistics.reserved.peak, floor)),
                   std::to_string(device_calls(report.device_calls)),
                   std::to_string(report.statistics.num_alloc_retries),
                   std::to_string(report.statistics.num_ooms),
                   std::to_string(allocator_time(report.device_time, report.program_ops).count()),
                   std::to_string(report.transfers.time.count()),
                   report.oom ? std::to_string(report.oom->op_index) : "",
                   std::to_string(floor.count()), std::to_string(packed.count())});
  }
  return table;
}

void write_json(const CompareAnswer& answer, Json& json) {
  if (!answer.engine.empty()) {
    json["engine"] = answer.engine;
  }
  json["floor_bytes"] = answer.packing.floor.count();
  json["packed_bytes"] = answer.packing.capacity.count();
  json["packed_proved"] = answer.packing.proved;
  json["pack_steps"] = answer.packing.steps;
  json["limit_bytes"] = bytes_or_null(answer.limit);
  json["capacity_bytes"] = answer.device.total.count();
  json["notes"] = answer.notes;
  json["policies"] = Json::array();
  for (const Row& row : answer.rows) {
    json["policies"].push_back(row_json(row, answer.packing.floor, answer.repeat));
  }
}

std::string csv_of(const CompareAnswer& answer) {
  return programs_table(answer.rows, answer.packing.floor, answer.packing.capacity).csv();
}

std::string text_of(const CompareAnswer& answer) {
  const Packing& packing = answer.packing;
  std::string repeats;
  if (answer.repeat > 0) {
    Table table{{{"driver calls in each repeat of the last iteration", Table::Align::left},
                 {"", Table::Align::left}}};
    for (const Row& row : answer.rows) {
      table.add_row({row.policy.text(), repeats_text(repeat_costs(row.report, answer.repeat))});
    }
    repeats = "\n" + table.text();
  }
  return fmt::format(
             "floor (largest live sum)  {}\npacked (best known ahead) {}, {:.2f} % over{}\n\n",
             size_text(packing.floor), size_text(packing.capacity),
             over_percent(packing.capacity.count(), packing.floor),
             packing.proved ? "; no packing is smaller" : "") +
         people_table(answer.rows, packing.floor).text() + repeats;
}

}  // namespace

const Writers<CompareAnswer>& compare_writers() {
  static constexpr Writers<CompareAnswer> kWriters{
      .json = write_json, .csv = csv_of, .text = text_of};
  return kWriters;
}

}  // namespace peakcast::app
