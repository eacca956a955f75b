#!/usr/bin/env python3
"""Described runs by the captured engine, and beside the native one.

    described_cli_test.py PEAKCAST [--count N] [--seed N]

Without PyTorch a program that only tells what it was given stands in for Python. With one
(PEAKCAST_TORCH_PYTHON) N random descriptions (20) are worked out by both engines: the same buffers in the
same order, but for neighbouring frees, and the same peaks. Exits 77 (skipped) without, after the rest.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

PEAKCAST = os.path.abspath(sys.argv.pop(1))
failures = []

# Writes what described_run.py would read to stderr, and fails.
TELLS = """#!/bin/sh
echo "told: $(tr -d ' \\n' < "$2")" >&2
exit 3
"""


def check(what, holds, detail=""):
    if not holds:
        failures.append(f"{what}: {detail}")


def peakcast(*words, timeout=600):
    return subprocess.run([PEAKCAST, *map(str, words)], capture_output=True, text=True, timeout=timeout)


def told(done):
    return [json.loads(line.removeprefix("told: ")) for line in done.stderr.splitlines() if line.startswith("told: ")]


def without_torch(scratch):
    tells = f"{scratch}/tells"
    with open(tells, "w") as file:
        file.write(TELLS)
    os.chmod(tells, 0o755)
    run = ["--model", "bert-tiny", "--batch", 3, "--seq", 64, "--engine", "captured", "--python", tells]
    grid = f"{scratch}/grid.json"
    with open(grid, "w") as file:
        json.dump({"run": {"model": "bert-tiny", "seq": 64, "engine": "captured", "python": tells}, "grid": {"batch": [3]}}, file)
    for command in (["predict", *run], ["compare", *run], ["explain", *run], ["trace", "generate", f"{scratch}/a.pkt", *run],
                    ["fit", *run, "--vary", "seq", "--max", 1], ["sweep", grid]):
        done = peakcast(*command)
        check(f"{command[0]} says that the program failed", done.returncode == 2 and "status 3" in done.stderr, done.stderr)
        given = told(done)
        check(f"{command[0]} describes the run once", [g["inputs"]["batch"] for g in given] == [3], done.stderr)
    check("no trace is left", not os.path.exists(f"{scratch}/a.pkt"))
    done = peakcast("fit", *run, "--vary", "batch", "--max", 9)
    check("fit tries values of its own", [g["inputs"]["batch"] for g in told(done)] == [5], done.stderr)
    done = peakcast("predict", *run, "--policy", "gmlake")
    check("another policy's figures are compare's", done.returncode == 2 and "compare" in done.stderr and not told(done), done.stderr)
    # What the native engine does not model goes to the captured one, and says so.
    lion = ["--model", "bert-tiny", "--optimizer", "muon", "--python", tells]
    for command in ("predict", "compare", "explain"):
        done = peakcast(command, *lion)
        check(f"{command} goes on by capture", "engine: captured (" in done.stderr and len(told(done)) == 1, done.stderr)
        done = peakcast(command, *lion, "--engine", "native")
        check(f"{command} natively says what is not modelled", done.returncode == 2 and not told(done), done.stderr)
    done = peakcast("predict", "--model", "bert-tiny", "--compile", "--engine", "native")
    check("what only the captured engine does needs it", done.returncode == 2 and "--engine captured" in done.stderr, done.stderr)
    for command in (["compare", "--policy", "pytorch"], ["explain"], ["fit", "--max", 2]):
        done = peakcast(*command, "--model", "bert-tiny", "--format", "json")
        check(f"{command[0]} names its engine", json.loads(done.stdout).get("engine") == "native", done.stderr)


def with_torch(python, count, seed, scratch):
    pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=16)
    options = parser.parse_args()
    python = os.environ.get("PEAKCAST_TORCH_PYTHON", "")
    with tempfile.TemporaryDirectory() as scratch:
        without_torch(scratch)
        if python:
            with_torch(python, options.count, options.seed, scratch)
    for failure in failures:
        print(failure)
    return 1 if failures else 0 if python else 77


if __name__ == "__main__":
    sys.exit(main())
