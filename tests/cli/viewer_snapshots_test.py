#!/usr/bin/env python3
"""Snapshots of recorded, replayed (every policy) and generated traces hold what the viewer needs.

usage: viewer_snapshots_test.py PEAKCAST DATA_FOLDER [--memory-viz _memory_viz.py]
"""
import os
import subprocess
import sys
import tempfile


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def main():
    program, data = sys.argv[1:3]
    rules = os.path.join(os.path.dirname(__file__), "..", "support", "viewer_rules.py")
    policies = [line.split(",")[0] for line in run(program, "policies", "--format", "csv").splitlines()[1:]]
    assert "pytorch" in policies and "gmlake" in policies, policies
    with tempfile.TemporaryDirectory() as folder:
        made = []

        def to(name):
            made.append(os.path.join(folder, name + ".pickle"))
            return made[-1]

        program_trace = os.path.join(folder, "run.pkt")
        run(program, "trace", "generate", program_trace, "--model", "bert-tiny", "--batch", "4", "--seq", "64",
            "--precision", "bf16-amp")
        run(program, "trace", "convert", program_trace, to("generated"))
        for name in ("fuzz_060.csv.zst", "pressure_fsdp1_llama_7b_w8_cap25.csv.zst", "bert_base_b4_s64_stacks.pickle.zst"):
            run(program, "trace", "convert", os.path.join(data, name), to("recorded_" + name.split(".")[0]))
        for policy in policies:
            for name, trace in (("generated", program_trace), ("fuzz", os.path.join(data, "fuzz_060.csv.zst"))):
                subprocess.run([program, "replay", trace, "--policy", policy, "--addresses", "modelled", "--pickle",
                                to(f"{name}_{policy}"), "-q"], check=False, stdout=subprocess.DEVNULL)
        # A policy that runs out of room: swaps, retries, and an out-of-memory in the entries.
        for policy in ("pytorch", "swap", "gmlake"):
            subprocess.run([program, "replay", os.path.join(data, "fuzz_060.csv.zst"), "--policy", policy, "--addresses",
                            "modelled", "--capacity", "600MiB", "--pickle", to("small_card_" + policy)],
                           check=False, stdout=subprocess.DEVNULL)
        first = open(made[0], "rb").read()
        run(program, "trace", "convert", program_trace, made[0], "--force")
        assert first == open(made[0], "rb").read(), "equal inputs, other bytes"
        # What was written is read again, and is the same program.
        again = run(program, "trace", "info", made[1], "--format", "json")
        assert '"alloc"' in again, again
        result = subprocess.run([sys.executable, rules] + sys.argv[3:] + made, check=False)
        sys.exit(result.returncode)


main()
