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
case "$1" in
  */described_run.py) echo "told: $(tr -d ' \\n' < "$2")" >&2 ;;
  *) echo "words: $*" >&2 ;;
esac
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
    # What is only told to the program.
    run = ["--model", "bert-tiny", "--python", tells]
    stages = ["--parallel", "pp", "--world", 8, "--pipeline-parallel", 4, "--microbatches", 6, "--rank", "all"]
    done = peakcast("predict", *run, *stages)
    given = [g["inputs"] for g in told(done)]
    check("a pipeline is captured", [(g["parallel"], g["pipeline_parallel"], g["microbatches"], g["rank"]) for g in given] ==
          [("pp", 4, 6, "all")], done.stderr)
    done = peakcast("predict", *run, "--parallel", "tp", "--world", 2, "--engine", "native")
    check("tensor parallelism is not modelled natively", done.returncode == 2 and "parallel tp" in done.stderr, done.stderr)
    done = peakcast("predict", *run, "--parallel", "pipeline")
    check("a way of sharing that is not known is refused", done.returncode == 2 and "'pipeline'" in done.stderr, done.stderr)
    done = peakcast("predict", *run, "--task", "contrastive", "--recompute", "full", "--zero-init")
    given = [g["inputs"] for g in told(done)]
    check("words and flags arrive", [(g["task"], g["recompute"], g["zero_init"], g["sequence_parallel"]) for g in given] ==
          [("contrastive", "full", True, False)], done.stderr)
    for number in ("-1", "2x", ""):
        done = peakcast("predict", *run, f"--tensor-parallel={number}")
        check(f"--tensor-parallel '{number}' is no number", done.returncode == 2 and not told(done), done.stderr)
    own = ["--python", tells, "--batch", 3, "--program", "train.py --rows {batch} --length={seq}"]
    for command in ("predict", "compare", "explain"):
        done = peakcast(command, *own)
        check(f"{command} runs a program of one's own", "words: train.py --rows 3 --length=512\n" in done.stderr, done.stderr)
    done = peakcast("fit", *own, "--vary", "batch", "--max", 9)
    check("fit varies its words", "words: train.py --rows 5 --length=512\n" in done.stderr, done.stderr)
    done = peakcast("predict", *own, "--model", "bert-tiny")
    check("a program and a model exclude one another", done.returncode == 2 and "exclude" in done.stderr, done.stderr)
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


# Built-in names of every family, and what makes a large one small without changing its shape.
SMALL = dict(num_hidden_layers=2, hidden_size=256, intermediate_size=512, num_attention_heads=4, vocab_size=4096)
GROUPED = dict(SMALL, num_key_value_heads=2, head_dim=64)
EXPERTS = dict(GROUPED, num_local_experts=4, num_experts_per_tok=2)
MODELS = {
    "bert-base": SMALL, "roberta-base": SMALL, "electra-small": dict(SMALL, embedding_size=128), "modernbert-base": SMALL,
    "distilbert-base": dict(n_layers=2, dim=256, hidden_dim=512, n_heads=4, vocab_size=4096),
    "gpt2": dict(n_layer=2, n_embd=256, n_head=4, vocab_size=4096), "llama-1b": GROUPED, "mistral-7b": GROUPED,
    "qwen2-0.5b": dict(SMALL, num_key_value_heads=2), "qwen3-0.6b": GROUPED, "gemma-3-270m": GROUPED, "gemma-2-2b": GROUPED,
    "olmo-2-1b": dict(SMALL, num_key_value_heads=4), "smollm3-3b": dict(SMALL, num_key_value_heads=2),
    "phi-3.5-mini": dict(SMALL, num_key_value_heads=4), "mixtral-small": dict(SMALL, num_key_value_heads=2, num_local_experts=4),
    "gpt-oss-20b": EXPERTS, "t5-small": dict(num_layers=2, num_decoder_layers=2, vocab_size=4096),
    "vit-base": dict(num_hidden_layers=2, hidden_size=256, intermediate_size=512, num_attention_heads=4),
}


def described(draw):
    """Flags of a random run that both engines cover, as long as one is drawn that the native one takes."""
    name = draw.choice(sorted(MODELS))
    fields = {key: value for key, value in MODELS[name].items()}
    if name in ("gemma-3-270m", "gemma-2-2b", "smollm3-3b", "gpt-oss-20b", "modernbert-base"):  # a list as long as the layers
        fields.pop("num_hidden_layers")
    words = ["--model", name, "--batch", draw.randint(1, 8), "--seq", draw.choice([32, 64, 100, 128]), "--iterations", 2]
    for key, value in fields.items():
        words += ["--set", f"{key}={value}"]
    words += ["--precision", draw.choice(["fp32", "bf16", "bf16-amp", "fp16-amp"])]
    words += ["--optimizer", draw.choice(["adamw", "adamw-fused", "adamw-single", "adam", "sgd", "sgd-plain", "rmsprop", "adafactor"])]
    words += ["--zero-grad", draw.choice(["before", "after"])]
    if draw.random() < 0.3:
        words += ["--attention", "eager"]
    if draw.random() < 0.3:
        words += ["--checkpoint", draw.choice(["full", "full-reentrant"])]
    if draw.random() < 0.3:
        words += ["--accumulate", draw.randint(2, 3)]
    if draw.random() < 0.3:
        words += ["--clip-grad"]
    way = draw.random()
    if way < 0.15:
        words += ["--lora", draw.choice([4, 16])]
    elif way < 0.35:
        words += ["--parallel", draw.choice(["ddp", "fsdp1", "fsdp2"]), "--world", draw.choice([2, 8])]
    return [str(word) for word in words]


def events(trace):
    """What is asked for and given back, in order; which of neighbouring frees goes first is left out."""
    table = trace + ".csv"
    done = peakcast("trace", "convert", trace, table, "--force")
    if done.returncode:
        raise RuntimeError(done.stderr)
    rows, live, frees = [], {}, []
    with open(table) as file:
        for line in file:
            action, address, size, stream = line.rstrip("\n").split(",")[:4]
            if action == "alloc":
                rows += sorted(frees)
                frees = []
                live[address] = len(rows)
                rows.append(("+", int(size), stream))
            elif action == "free_requested":
                frees.append(("-", live.pop(address), ""))
    return rows + sorted(frees)


def peaks(trace):
    peak = json.loads(peakcast("replay", trace, "--addresses", "modelled", "--format", "json").stdout)["peak"]
    return peak["allocated_bytes"], peak["reserved_bytes"]


def with_torch(python, count, seed, scratch):
    draw = random.Random(seed)
    compared = equal = same_peaks = 0
    while compared < count:
        words = described(draw)
        native, captured = f"{scratch}/native.pkt", f"{scratch}/captured.pkt"
        done = peakcast("trace", "generate", native, "--force", *words, "--engine", "native")
        if done.returncode:  # flags that contradict one another, or what is not modelled
            continue
        compared += 1
        done = peakcast("trace", "generate", captured, "--force", *words, "--engine", "captured", "--python", python)
        if done.returncode:
            check(" ".join(words), False, done.stderr[-600:])
            continue
        ours, theirs = events(native), events(captured)
        equal += ours == theirs
        same_peaks += peaks(native) == peaks(captured)
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
            print(f"parts at event {at} of {len(ours)} and {len(theirs)}: {ours[at:at + 2]}, {theirs[at:at + 2]}, peaks "
                  f"{peaks(native)}, {peaks(captured)}: {' '.join(words)}", flush=True)
    print(f"{compared} runs by both engines: events equal in {equal}, peaks in {same_peaks}")
    check("events are equal in 95 of 100", equal >= 0.95 * compared, equal)
    check("peaks are equal in 90 of 100", same_peaks >= 0.9 * compared, same_peaks)


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
