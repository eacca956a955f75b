#include <string>

#include "sim/app/command.hpp"
#include "sim/app/command_line.hpp"
#include "sim/app/predict_answer.hpp"
#include "sim/app/run_flags.hpp"

namespace peakcast::app {

int run_predict(std::span<const std::string> words) {
  CommandLine line{{"predict", "Whether a training run fits on a card, and what takes the memory",
                    "predict --model bert-large --batch 16 --seq 512 --precision bf16-amp --gpu "
                    "a100-40g"}};
  RunFlags flags{line};
  PredictQuestion question;
  line.text("timeline", "FILE", question.timeline,
            "write streams and memory over time, for Perfetto or chrome://tracing");
  if (const auto status = line.parse(words)) {
    return *status;
  }
  question.run = flags.run();
  if (flags.policies().size() != 1) {
    throw Fault{"--policy: predict takes one policy ('peakcast compare' takes several)"};
  }
  const PredictAnswer found = answer(question);
  write_stdout(written(line, found, predict_writers()));
  return found.fits() ? kFits : kDoesNotFit;
}

}  // namespace peakcast::app
