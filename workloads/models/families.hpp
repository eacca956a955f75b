#pragma once

#include "workloads/family.hpp"

/// The families' rows. Each is defined in the file of its name, those of decoders in
/// decoder_families.cpp and those of BERT's build in encoder.cpp.
namespace peakcast::models {

extern const Family kBert;
extern const Family kDeepseekV3;
extern const Family kDistilBert;
extern const Family kElectra;
extern const Family kGemma2;
extern const Family kGemma3;
extern const Family kGpt2;
extern const Family kGptOss;
extern const Family kGranite;
extern const Family kLlama;
extern const Family kMistral;
extern const Family kMixtral;
extern const Family kModernBert;
extern const Family kOlmo2;
extern const Family kPhi3;
extern const Family kQwen2;
extern const Family kQwen3;
extern const Family kQwen3Moe;
extern const Family kRoberta;
extern const Family kSmolLm3;
extern const Family kT5;
extern const Family kVit;

}  // namespace peakcast::models
