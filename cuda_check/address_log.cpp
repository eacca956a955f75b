#include "cuda_check/address_log.hpp"

#include <algorithm>

namespace peakcast {
namespace {

using namespace literals;

ModelledAddresses beyond(const GivenAddresses& given) {
  if (given.acquired.empty() && given.reserved.empty()) {
    return ModelledAddresses{};
  }
  // Far from what was logged, on a whole chunk: below the lowest, above the highest.
  constexpr std::uint64_t kChunk = std::uint64_t{32} << 20;
  Address lowest{~std::uint64_t{0}};
  Address highest{};
  for (const auto* addresses : {&given.acquired, &given.reserved}) {
    for (const Address address : *addresses) {
      lowest = std::min(lowest, address);
      highest = std::max(highest, address);
    }
  }
  return ModelledAddresses{Address{lowest.value() / kChunk * kChunk},
                           Address{(highest.value() / kChunk + 1) * kChunk + (1ULL << 40)}};
}

}  // namespace

std::optional<Address> AddressLog::acquire(Bytes size) {
  const std::optional<Address> address = inner_->acquire(size);
  if (address) {
    given_.acquired.push_back(*address);
  }
  return address;
}

std::optional<Address> AddressLog::reserve(Bytes size) {
  const std::optional<Address> address = inner_->reserve(size);
  if (address) {
    given_.reserved.push_back(*address);
  }
  return address;
}

ObservedAddresses::ObservedAddresses(const GivenAddresses& given)
    : given_{&given}, beyond_{beyond(given)} {}

std::optional<Address> ObservedAddresses::acquire(Bytes size) {
  if (acquires_ < given_->acquired.size()) {
    return given_->acquired[acquires_++];
  }
  return beyond_.acquire(size);
}

void ObservedAddresses::release(Address address, Bytes size) {
  if (beyond_.gave(address)) {
    beyond_.release(address, size);
  }
}

std::optional<Address> ObservedAddresses::reserve(Bytes size) {
  if (reserves_ < given_->reserved.size()) {
    return given_->reserved[reserves_++];
  }
  return beyond_.reserve(size);
}

void ObservedAddresses::unreserve(Address /*address*/, Bytes /*size*/) {
  // Reservations beyond the log are never used twice either: they only ascend.
}

}  // namespace peakcast
