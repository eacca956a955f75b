"""train.py takes what `peakcast predict` takes: the run flags of the one are those of the other."""
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import unittest

PEAKCAST, TRAIN = sys.argv.pop(1), pathlib.Path(sys.argv.pop(1))
spec = importlib.util.spec_from_file_location("train", TRAIN)
train = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train)

# Flags of predict that say how to answer, not what to run.
REPORT_FLAGS = {"--format", "--quiet", "--verbose", "--help", "--engine", "--force", "--python",
                "--report", "--loader-workers", "--prefetch-factor", "--pin-memory"}


def predict_flags():
    text = subprocess.run([PEAKCAST, "predict", "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", text, re.MULTILINE)) - REPORT_FLAGS


def figures(**changes):
    peak = dict(requested_bytes=90, allocated_bytes=100, active_bytes=100, reserved_bytes=200, device_bytes=300)
    result = dict(peak=peak, iterations=[dict(duration_ns=2_000_000)], oom=None)
    return {**result, **changes}


class TrainFlags(unittest.TestCase):
    def test_every_run_flag_of_predict_is_taken(self):
        known = {option for action in train.parser()._actions for option in action.option_strings}
        missing = predict_flags() - known - {"--advise", "--margin", "--timeline", "--timeline-out", "--trace-out"}
        self.assertEqual(missing, set())

    def test_words_of_the_measurement_do_not_reach_predict(self):
        words = ["--model", "bert-large", "--save", "x.json", "--dry-run", "--lock=y", "--batch", "2"]
        self.assertEqual(train.run_words(words), ["--model", "bert-large", "--batch", "2"])

    def test_sizes_are_read_as_the_program_reads_them(self):
        self.assertEqual(train.size("24GiB"), 24 << 30)
        self.assertEqual(train.size("24G"), 24 << 30)
        self.assertEqual(train.size("80GB"), 80 * 10**9)
        self.assertEqual(train.size("512"), 512)

    def test_figures_stand_side_by_side(self):
        table = train.rows(figures(), figures())
        self.assertIn(("peak reserved", "MiB", 200, 200), table)
        self.assertIn(("iteration 0", "ms", 2_000_000, 2_000_000), table)

    def test_a_run_out_of_memory_has_no_peaks_to_compare(self):
        oom = dict(iteration=1, phase="forward")
        self.assertEqual([r for r in train.rows(figures(oom=oom), figures()) if r[1] == "MiB"], [])

    def test_every_built_in_model_has_its_file(self):
        for path in train.CONFIGS.glob("*.json"):
            self.assertIn("model_type", json.loads(path.read_text()), path)


if __name__ == "__main__":
    unittest.main()
