#include "allocators/plugin/plugin.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <dlfcn.h>
#include <exception>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "allocators/plugin/foreign_process.hpp"
#include "allocators/plugin/peakcast_policy.h"
#include "allocators/stream_heaps.hpp"
#include "sim/alloc/referee.hpp"

namespace peakcast {
namespace {

/// The first thing that any heap of a plug-in did wrong.
struct PluginFault {
  std::optional<std::string> text{};
  void set(std::string what) {
    if (!text) {
      text = std::move(what);
    }
  }
};

struct Library {
  void* handle{};
  const peakcast_policy_table* table{};
  ForeignCalls calls;
  explicit Library(std::string_view name) : calls{name} {}
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() {
    if (handle != nullptr) {
      const ForeignCalls::Call call{calls, "its end"};
      dlclose(handle);
    }
  }
};

/// Runs `body`, in which `function` of the library runs, and says what it threw: nothing of a
/// foreign library may unwind through the simulator.
template <class Body>
std::optional<std::string> thrown_by(const Library& library, const char* function,
                                     const Body& body) {
  const ForeignCalls::Call call{library.calls, function};
  try {
    body();
    return std::nullopt;
  } catch (const std::exception& error) {
    return fmt::format("{} threw an exception: {}", function, error.what());
  } catch (...) {
    return fmt::format("{} threw an exception", function);
  }
}

/// One heap of a plug-in, with a driver table that checks every call before it makes it.
class PluginHeap final : public StreamHeap {
 public:
  PluginHeap(Upstream& upstream, StreamId stream, std::shared_ptr<Library> library,
             std::shared_ptr<PluginFault> fault, const std::string& settings)
      : upstream_{upstream},
        stream_{stream},
        library_{std::move(library)},
        fault_{std::move(fault)} {
    const DeviceSpec& spec = upstream_.device().spec();
    driver_ = peakcast_driver{.self = this,
                              .total = unsigned_of(spec.total),
                              .granularity = unsigned_of(spec.granularity),
                              .acquire = acquire,
                              .release = release,
                              .reserve = reserve,
                              .unreserve = unreserve,
                              .create = create,
                              .destroy = destroy,
                              .map = map,
                              .unmap = unmap};
    std::array<char, 256> error{};
    call("make", [&] {
      heap_ = library_->table->make(&driver_, settings.c_str(), error.data(), error.size() - 1);
    });
    if (heap_ == nullptr) {
      error.back() = '\0';
      fault_->set(std::string{"it refuses its settings: "} + error.data());
    }
  }
  ~PluginHeap() override {
    if (heap_ != nullptr) {
      closing_ = true;
      const auto thrown = thrown_by(*library_, "destroy", [&] { library_->table->destroy(heap_); });
      if (thrown) {
        library_->calls.set_late_fault(*thrown);
      }
    }
  }
  PluginHeap(const PluginHeap&) = delete;
  PluginHeap& operator=(const PluginHeap&) = delete;

  [[nodiscard]] Bytes rounded(Bytes size) const override { return size; }

  [[nodiscard]] std::optional<Grant> take(Bytes size) override {
    if (heap_ == nullptr || fault_->text) {
      return std::nullopt;
    }
    peakcast_grant grant{};
    int failed = 1;
    library_->calls.begin_request(unsigned_of(size));
    call("take", [&] { failed = library_->table->take(heap_, unsigned_of(size), &grant); });
    if (failed != 0 || fault_->text) {
      return std::nullopt;
    }
    const Address address{grant.address};
    if (grant.size > driver_.total || grant.address > kLastAddress ||
        !holds(address, bytes_of(grant.size))) {
      fault_->set(fmt::format("the block [{:#x}, {:#x}) lies outside the memory that it holds",
                              grant.address, grant.address + grant.size));
      return std::nullopt;
    }
    if (!taken_.emplace(grant.block, BlockView{.address = address, .size = bytes_of(grant.size)})
             .second) {
      fault_->set(fmt::format("the block [{:#x}, {:#x}) has the number {} of a live block",
                              grant.address, grant.address + grant.size, grant.block));
      return std::nullopt;
    }
    return Grant{address, bytes_of(grant.size), grant.block};
  }

  void give(std::uint32_t block) override {
    taken_.erase(block);
    if (!fault_->text) {
      call("give", [&] { library_->table->give(heap_, block); });
    }
  }

  bool trim() override {
    const std::size_t before = segments_.size() + physical_.size();
    if (heap_ != nullptr && library_->table->trim != nullptr && !fault_->text) {
      call("trim", [&] { library_->table->trim(heap_); });
    }
    return segments_.size() + physical_.size() < before;
  }

  void begin_iteration(std::int64_t index) override {
    if (heap_ != nullptr && library_->table->begin_iteration != nullptr && !fault_->text) {
      call("begin_iteration", [&] { library_->table->begin_iteration(heap_, index); });
    }
  }

  [[nodiscard]] Bytes largest_free() const override { return {}; }  // it does not tell

  /// Its segments and mappings; what it does not say is handed out is free.
  void append_to(HeapView& view) const override {
    std::map<Address, Bytes> held = segments_;
    for (const auto& [address, mapping] : mappings_) {
      held.emplace(address, mapping.size);
    }
    // Mappings that touch are one segment: a block may span them.
    std::vector<SegmentView> segments;
    for (const auto& [address, size] : held) {
      const bool mapped = !segments_.contains(address);
      if (mapped && !segments.empty() && segments.back().expandable &&
          segments.back().address + segments.back().size == address) {
        segments.back().size += size;
      } else {
        segments.push_back(
            {.address = address, .size = size, .stream = stream_, .expandable = mapped});
      }
    }
    std::map<Address, BlockView> blocks;
    for (const auto& [number, block] : taken_) {
      blocks.emplace(block.address, block);
    }
    for (SegmentView& segment : segments) {
      Address at = segment.address;
      const Address end = segment.address + segment.size;
      for (auto block = blocks.lower_bound(at); block != blocks.end() && block->first < end;
           ++block) {
        if (at < block->first) {
          segment.blocks.push_back({.address = at, .size = block->first - at, .stream = stream_});
        }
        segment.blocks.push_back(block->second);
        segment.blocks.back().state = BlockState::allocated;
        at = block->first + block->second.size;
      }
      if (at < end) {
        segment.blocks.push_back({.address = at, .size = end - at, .stream = stream_});
      }
      view.segments.push_back(std::move(segment));
    }
  }

 private:
  struct Mapping {
    Bytes size{};
    std::uint32_t physical{};
  };
  struct Physical {
    Bytes size{};
    int mappings{};
  };

  /// What a device address may be; a size added to it does not wrap.
  static constexpr std::uint64_t kLastAddress = (std::uint64_t{1} << 47) - 1;

  template <class Body>
  void call(const char* function, const Body& body) {
    if (auto thrown = thrown_by(*library_, function, body)) {
      fault_->set(*std::move(thrown));
    }
  }

  static std::uint64_t unsigned_of(Bytes size) { return static_cast<std::uint64_t>(size.count()); }
  static Bytes bytes_of(std::uint64_t size) { return Bytes{static_cast<std::int64_t>(size)}; }
  static PluginHeap& self_of(void* self) { return *static_cast<PluginHeap*>(self); }

  /// Whether [address, address + size) is one segment's or mapped without a gap.
  [[nodiscard]] bool holds(Address address, Bytes size) const {
    const auto segment = segments_.upper_bound(address);
    if (segment != segments_.begin()) {
      const auto& [base, length] = *std::prev(segment);
      if (address + size <= base + length) {
        return true;
      }
    }
    const Address end = address + size;
    auto mapping = mappings_.upper_bound(address);
    if (mapping == mappings_.begin()) {
      return false;
    }
    --mapping;
    Address at = mapping->first;
    while (mapping != mappings_.end() && mapping->first == at) {
      at = at + mapping->second.size;
      if (end <= at) {
        return true;
      }
      ++mapping;
    }
    return false;
  }
  [[nodiscard]] bool sensible(std::uint64_t size) const {
    return size > 0 && size <= driver_.total;
  }
  [[nodiscard]] bool whole(std::uint64_t size) const {
    return sensible(size) && size % driver_.granularity == 0;
  }

  static int acquire(void* self, std::uint64_t size, std::uint64_t* address) {
    PluginHeap& heap = self_of(self);
    if (!heap.sensible(size)) {
      return 1;
    }
    const std::optional<Address> got = heap.upstream_.acquire(bytes_of(size), heap.stream_);
    if (!got) {
      return 1;
    }
    heap.segments_.emplace(*got, bytes_of(size));
    *address = got->value();
    return 0;
  }
  static void release(void* self, std::uint64_t address) {
    PluginHeap& heap = self_of(self);
    const auto found = heap.segments_.find(Address{address});
    if (found == heap.segments_.end()) {
      heap.fault_->set(fmt::format("release of {:#x}, which is no segment that it holds", address));
      return;
    }
    // A destructor that gives its memory back is good manners, not an event of the run.
    if (!heap.closing_) {
      heap.upstream_.release(found->first, found->second, heap.stream_);
    }
    heap.segments_.erase(found);
  }
  static int reserve(void* self, std::uint64_t size, std::uint64_t* address) {
    PluginHeap& heap = self_of(self);
    if (size == 0 || size % heap.driver_.granularity != 0 || size > (std::uint64_t{1} << 46)) {
      heap.fault_->set(fmt::format("reserve of {} bytes, no multiple of the granularity", size));
      return 1;
    }
    const std::optional<Address> got = heap.upstream_.device().reserve(bytes_of(size));
    if (!got) {
      return 1;
    }
    heap.reservations_.emplace(*got, bytes_of(size));
    *address = got->value();
    return 0;
  }
  static void unreserve(void* self, std::uint64_t address) {
    PluginHeap& heap = self_of(self);
    const auto found = heap.reservations_.find(Address{address});
    if (found == heap.reservations_.end()) {
      heap.fault_->set(fmt::format("unreserve of {:#x}, which it did not reserve", address));
      return;
    }
    const auto mapping = heap.mappings_.lower_bound(found->first);
    if (mapping != heap.mappings_.end() && mapping->first < found->first + found->second) {
      heap.fault_->set(fmt::format("unreserve of {:#x}, where memory is still mapped", address));
      return;
    }
    if (!heap.closing_) {
      heap.upstream_.device().unreserve(found->first, found->second);
    }
    heap.reservations_.erase(found);
  }
  static int create(void* self, std::uint64_t size, std::uint32_t* physical) {
    PluginHeap& heap = self_of(self);
    if (!heap.whole(size)) {
      heap.fault_->set(fmt::format("create of {} bytes, no multiple of the granularity", size));
      return 1;
    }
    const std::optional<PhysicalId> got = heap.upstream_.create(bytes_of(size));
    if (!got) {
      return 1;
    }
    heap.physical_.emplace(got->value, Physical{bytes_of(size), 0});
    *physical = got->value;
    return 0;
  }
  static void destroy(void* self, std::uint32_t physical) {
    PluginHeap& heap = self_of(self);
    const auto found = heap.physical_.find(physical);
    if (found == heap.physical_.end() || found->second.mappings > 0) {
      heap.fault_->set(fmt::format("destroy of physical memory {}, which is {}", physical,
                                   found == heap.physical_.end() ? "not its own" : "still mapped"));
      return;
    }
    if (!heap.closing_) {
      heap.upstream_.destroy(PhysicalId{physical}, found->second.size);
    }
    heap.physical_.erase(found);
  }
  static void map(void* self, std::uint64_t address, std::uint32_t physical) {
    PluginHeap& heap = self_of(self);
    const auto found = heap.physical_.find(physical);
    if (found == heap.physical_.end()) {
      heap.fault_->set(fmt::format("map of physical memory {}, which is not its own", physical));
      return;
    }
    if (address > kLastAddress || address % heap.driver_.granularity != 0) {
      heap.fault_->set(
          fmt::format("map at {:#x}, no multiple of the granularity below 2^47", address));
      return;
    }
    const Address from{address};
    const Address to = from + found->second.size;
    const auto reservation = heap.reservations_.upper_bound(from);
    if (reservation == heap.reservations_.begin() ||
        std::prev(reservation)->first + std::prev(reservation)->second < to) {
      heap.fault_->set(fmt::format("map at {:#x}, outside what it reserved", address));
      return;
    }
    const auto after = heap.mappings_.lower_bound(from);
    if ((after != heap.mappings_.end() && after->first < to) ||
        (after != heap.mappings_.begin() &&
         std::prev(after)->first + std::prev(after)->second.size > from)) {
      heap.fault_->set(fmt::format("map at {:#x}, over a mapping", address));
      return;
    }
    heap.upstream_.device().map(from, PhysicalId{physical});
    heap.mappings_.emplace(from, Mapping{found->second.size, physical});
    ++found->second.mappings;
  }
  static void unmap(void* self, std::uint64_t address, std::uint64_t size) {
    PluginHeap& heap = self_of(self);
    if (!heap.sensible(size) || address > kLastAddress) {
      heap.fault_->set(fmt::format("unmap of {} bytes at {:#x}", size, address));
      return;
    }
    const Address end = Address{address} + bytes_of(size);
    Address at{address};
    std::vector<std::map<Address, Mapping>::iterator> gone;
    for (auto mapping = heap.mappings_.find(at); at < end; ++mapping) {
      if (mapping == heap.mappings_.end() || mapping->first != at) {
        heap.fault_->set(fmt::format("unmap of {:#x}, where nothing is mapped", at.value()));
        return;
      }
      gone.push_back(mapping);
      at = at + mapping->second.size;
    }
    if (at != end) {
      heap.fault_->set(fmt::format("unmap of part of the mapping that ends at {:#x}", at.value()));
      return;
    }
    if (!heap.closing_) {
      heap.upstream_.device().unmap(Address{address}, bytes_of(size));
    }
    for (const auto mapping : gone) {
      --heap.physical_.at(mapping->second.physical).mappings;
      heap.mappings_.erase(mapping);
    }
  }

  Upstream& upstream_;
  StreamId stream_;
  std::shared_ptr<Library> library_;
  std::shared_ptr<PluginFault> fault_;
  peakcast_driver driver_{};
  void* heap_{};
  bool closing_{};
  std::map<Address, Bytes> segments_{};
  std::map<Address, Bytes> reservations_{};
  std::map<std::uint32_t, Physical> physical_{};
  std::map<Address, Mapping> mappings_{};
  std::map<std::uint32_t, BlockView> taken_{};
};

/// StreamHeaps that also tells what its plug-in did wrong.
class PluginPolicy final : public Allocator {
 public:
  PluginPolicy(std::unique_ptr<Allocator> heaps, std::string name,
               std::shared_ptr<PluginFault> fault)
      : heaps_{std::move(heaps)}, name_{std::move(name)}, fault_{std::move(fault)} {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] AllocOutcome allocate(const AllocRequest& request) override {
    return heaps_->allocate(request);
  }
  void deallocate(BlockId block) override { heaps_->deallocate(block); }
  void record_stream(BlockId block, StreamId stream) override {
    heaps_->record_stream(block, stream);
  }
  void empty_cache() override { heaps_->empty_cache(); }
  void poll() override { heaps_->poll(); }
  void begin_iteration(std::int64_t index) override { heaps_->begin_iteration(index); }
  [[nodiscard]] const Statistics& statistics() const override { return heaps_->statistics(); }
  [[nodiscard]] HeapView view() const override { return heaps_->view(); }
  [[nodiscard]] std::optional<std::string> fault() const override { return fault_->text; }
  void set_sink(EventSink* sink) override { heaps_->set_sink(sink); }

 private:
  std::unique_ptr<Allocator> heaps_;
  std::string name_;
  std::shared_ptr<PluginFault> fault_;
};

}  // namespace

bool is_plugin(std::string_view spec) {
  return spec.find('/') != std::string_view::npos || spec.ends_with(".so");
}

bool names_plugin(std::span<const std::string> words) {
  const auto any = [](std::string_view list) {
    while (!list.empty()) {
      const std::string_view name = list.substr(0, list.find(','));
      if (is_plugin(PolicyName::parse(name).base)) {
        return true;
      }
      list.remove_prefix(std::min(name.size() + 1, list.size()));
    }
    return false;
  };
  constexpr std::string_view kFlag = "--policy";
  for (std::size_t i = 1; i < words.size(); ++i) {
    const std::string_view word = words[i];
    if (word == "--") {
      break;  // what follows is another program's
    }
    if ((words[0] == "policies" && any(word)) || (words[i - 1] == kFlag && any(word)) ||
        (word.starts_with("--policy=") && any(word.substr(kFlag.size() + 1)))) {
      return true;
    }
  }
  return false;
}

namespace {

Expected<std::shared_ptr<Library>> open_library(const std::string& path) {
  // dlopen searches the system for a bare name; a file in this folder is what was meant.
  const std::string file = path.find('/') == std::string::npos ? "./" + path : path;
  auto library = std::make_shared<Library>(path);
  void* symbol = nullptr;
  std::optional<std::string> thrown = thrown_by(*library, "its start", [&] {
    library->handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  });
  if (!thrown && library->handle == nullptr) {
    return Error{ErrorCode::not_found, fmt::format("cannot load the policy: {}", dlerror()),
                 std::nullopt};
  }
  if (!thrown) {
    symbol = dlsym(library->handle, "peakcast_policy");
    if (symbol == nullptr) {
      return invalid_input(fmt::format("{} has no function peakcast_policy()", path));
    }
    const peakcast_policy_table* (*entry)() = nullptr;
    static_assert(sizeof entry == sizeof symbol);
    std::memcpy(&entry, &symbol, sizeof entry);  // POSIX: dlsym's pointer is the function's
    thrown = thrown_by(*library, "peakcast_policy", [&] { library->table = entry(); });
  }
  if (thrown) {
    return invalid_input(fmt::format("policy '{}': {}", path, *thrown));
  }
  if (library->table == nullptr || library->table->abi != PEAKCAST_POLICY_ABI) {
    return invalid_input(fmt::format("{} was not made for version {} of the plug-in interface",
                                     path, PEAKCAST_POLICY_ABI));
  }
  const peakcast_policy_table& table = *library->table;
  if (table.name == nullptr || table.make == nullptr || table.destroy == nullptr ||
      table.take == nullptr || table.give == nullptr) {
    return invalid_input(fmt::format("{} leaves out a function that it must have", path));
  }
  return library;
}

}  // namespace

Expected<PluginDescription> describe_plugin(const std::string& path) {
  const auto library = open_library(path);
  if (!library) {
    return library.error();
  }
  const peakcast_policy_table& table = *(*library)->table;
  return PluginDescription{.name = table.name,
                           .one_heap = table.shared != 0,
                           .trims = table.trim != nullptr,
                           .follows_iterations = table.begin_iteration != nullptr};
}

Expected<std::unique_ptr<Allocator>> load_plugin(const std::string& path, Device& device,
                                                 Streams& streams, const PolicyOptions& options) {
  auto opened = open_library(path);
  if (!opened) {
    return opened.error();
  }
  const std::shared_ptr<Library> library = std::move(opened).value();
  const peakcast_policy_table& table = *library->table;
  auto fault = std::make_shared<PluginFault>();
  auto heaps = std::make_unique<StreamHeaps>(
      device, streams,
      StreamHeaps::Options{
          .name = table.name, .limit = options.limit, .one_heap = table.shared != 0},
      [library, fault, settings = options.alloc_conf](Upstream& upstream, StreamId stream) {
        return std::make_unique<PluginHeap>(upstream, stream, library, fault, settings);
      });
  // PluginPolicy keeps a copy of the name: the library may go first.
  return std::unique_ptr<Allocator>{std::make_unique<Referee>(
      std::make_unique<PluginPolicy>(std::move(heaps), table.name, std::move(fault)))};
}

}  // namespace peakcast
