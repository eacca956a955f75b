#pragma once

#include "workloads/family.hpp"

/// The families' rows. Each is defined in the file of its name, those of decoders in
/// decoder_families.cpp.
namespace peakcast::models {

extern const Family kBert;
extern const Family kGpt2;
extern const Family kLlama;
extern const Family kMistral;
extern const Family kMixtral;
extern const Family kQwen2;
extern const Family kT5;
extern const Family kVit;

}  // namespace peakcast::models
