"""A random walk over all flags of all commands: each run ends with 0, 1 or 2, what is refused in one line, and what is
accepted makes sense.

usage: flag_walk_test.py PEAKCAST DATA [--runs N] [--seed S]
"""
import argparse
import json
import pathlib
import random
import resource
import subprocess
import sys
import tempfile

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "bf16-amp": 4, "fp16-amp": 4}
COMMANDS = ["predict", "fit", "replay", "compare", "explain", "trace generate", "trace info", "trace validate",
            "trace convert", "trace diff", "models", "gpus", "policies"]
# What runs programs of others, or is not about the answer.
LEFT_OUT = {"engine", "python", "images", "offload", "compile", "help"}
SIZES = ["0", "1", "512", "2MiB", "300MiB", "1.5GiB", "16G", "80GB", "200GiB", "64TiB", "0.5", "50%", "1.5", "-1", "9e9",
         "9223372036854775807", "99999999999999999999", "1 GiB", "GiB", ""]
NUMBERS = ["0", "1", "2", "3", "7", "16", "64", "513", "1048576", "-1", "1.5", "x", "", "9223372036854775807",
           "99999999999999999999"]
SETTINGS = ["", "expandable_segments:True", "max_split_size_mb:64", "garbage_collection_threshold:0.8",
            "roundup_power2_divisions:[256:1,512:2,>:4]", "backend:cudaMallocAsync", "x:y", "max_split_size_mb:-1", ":", ",",
            "per_process_memory_fraction:0.1"]
POLICIES = ["pytorch", "pytorch@2.5", "pytorch@9.9", "pytorch,buddy", "bfc", "buddy", "cuda-malloc", "cuda-malloc-async",
            "deferred-defrag", "gmlake", "peakcast", "rmm-arena", "rmm-pool", "size-class", "stalloc", "swap", "tlsf", "nope",
            "pytorch+max_split_size_mb:200,garbage_collection_threshold:0.8", "buddy+x:1", "", ",", "+", "@"]
MODELS = ["bert-tiny", "bert-tiny", "gpt2", "t5-small", "vit-base", "llama-1b", "llama-2-70b", "no-such-model", "", "/dev/null"]
VALUES = {
    "model": MODELS, "policy": POLICIES, "alloc-conf": SETTINGS, "gpu": ["h100-80g", "v100-16g", "l4-24g", "nope", "/dev/null"],
    "set": ["num_hidden_layers=1", "vocab_size=0", "hidden_size=-1", "x=y", "=", "use_cache=true"],
    "task": ["mlm", "causal-lm", "seq2seq", "classification", "x"], "batches": ["2x8,3x16", "0x1", "x", "1x1"],
    "framework": ["pytorch-2.5", "pytorch-2.11", "pytorch-1.0"], "checkpoint": ["none", "full", "full-reentrant", "every-2", "x"],
    "lora-targets": ["all-linear", "q_proj,v_proj", "", ","], "lora-dropout": ["0", "0.1", "1", "x"], "freeze": [".*", "(", "embed"],
    "margin": ["5%", "1GiB", "x", "200%"], "to": ["auto", "pkt", "csv", "pickle", "rmm", "minimalloc", "x"],
}
HOSTILE = ["\n", "\x1b[2J", "a" * 5000, "\u00e9", "%s%n", "--", "-", "/", "."]


def flags_of(peakcast, command):
    text = subprocess.run([peakcast, *command.split(), "--help", "--format", "json"], capture_output=True, text=True,
                          check=True).stdout
    table = json.loads(text)
    return [row for row in table["flags"] if row["name"] not in LEFT_OUT], table["words"]


class Walk:
    def __init__(self, peakcast, data, folder, seed):
        self.peakcast, self.folder, self.random = peakcast, folder, random.Random(seed)
        self.files = [str(p) for p in sorted(data.glob("fuzz_*.csv.zst"))] + ["/dev/null", str(folder), "nowhere.csv"]
        self.commands = {name: flags_of(peakcast, name) for name in COMMANDS}

    def value(self, row):
        pick = self.random.choice
        if self.random.random() < 0.02:
            return pick(HOSTILE)
        if row["name"] in VALUES:
            return pick(VALUES[row["name"]])
        kind = row["value"]
        if "|" in kind and kind.islower():
            return pick([*kind.split("|"), "nope"])
        if kind.startswith("SIZE"):
            return pick(SIZES)
        if kind == "N":
            # Small ones mostly, or nothing would be left to answer.
            return pick(NUMBERS) if self.random.random() < 0.3 else pick(["1", "2", "3", "4", "8"])
        if "FILE" in kind:
            return str(self.folder / pick(["a.pkt", "b.csv", "c.json", "d.html", "no/such/folder.json"]))
        return pick(HOSTILE + ["x"])

    def words(self, command):
        flags, positionals = self.commands[command]
        words = command.split()
        for positional in positionals:
            if positional["name"] == "TO":
                words.append(str(self.folder / self.random.choice(["a.pkt", "b.csv", "c.pickle", "d"])))
            elif "model" in {row["name"] for row in flags} and self.random.random() < 0.6:
                continue
            elif positional["name"] == "NAME":
                words += self.random.sample(MODELS + POLICIES, self.random.randrange(3))
            else:
                words.append(self.random.choice(self.files))
        if "model" in {row["name"] for row in flags} and not any(word in self.files for word in words):
            words += ["--model", self.random.choice(MODELS)]
        for row in self.random.sample(flags, min(len(flags), self.random.randrange(6))):
            if row["value"] == "":
                words.append("--" + row["name"])
            else:
                words.append(f"--{row['name']}={self.value(row)}")
        return words

    def run(self):
        command = self.random.choice(COMMANDS[:6] * 3 + COMMANDS)
        words = self.words(command)
        as_json = command == "predict" and not any(word.startswith("--format") for word in words)
        if as_json:
            words += ["--format", "json"]
        if any("\0" in word for word in words):
            return None
        limit = 16 << 30  # address space: nothing small takes more (a sanitizer's own is not counted here)
        bound = None if b"__asan_init" in pathlib.Path(self.peakcast).read_bytes() else (
            lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
        try:
            done = subprocess.run([self.peakcast, *words], capture_output=True, text=True, errors="replace",
                                  stdin=subprocess.DEVNULL, timeout=300, preexec_fn=bound, check=False)
        except subprocess.TimeoutExpired:
            return words, "did not end within 300 s"
        return words, self.trouble(words, done, as_json)

    def trouble(self, words, done, as_json):
        if done.returncode not in (0, 1, 2):
            return f"ended with {done.returncode}: {done.stderr[-300:]}"
        errors = [line for line in done.stderr.split("\n") if line.startswith("peakcast: error")]
        if done.returncode == 2 and (len(errors) != 1 or not done.stderr.endswith("\n")):
            return f"2 without one line of error: {done.stderr[-300:]}"
        if "\x1b" in done.stderr:
            return "control characters on stderr"
        if as_json and done.returncode in (0, 1) and "--help" not in words:
            return self.nonsense(words, json.loads(done.stdout))
        return None

    @staticmethod
    def nonsense(words, report):
        """Whether one card holds what it cannot."""
        inputs = report["inputs"]
        fits = report["verdict"] != "out_of_memory"
        if fits == (report["oom"] is not None):
            return "the verdict and the out-of-memory disagree"
        if report["peak"]["allocated_bytes"] > report["peak"]["reserved_bytes"] and inputs["policy"] != "swap":
            return "more is allocated than reserved"
        whole = inputs["parallel"] in ("none", "ddp") and inputs["quantize"] == "none" and inputs["policy"] != "swap"
        if whole and fits and "parameters" in report.get("model", {}):
            parameters = report["model"]["parameters"] * BYTES[inputs["precision"]]
            if parameters > report["gpu"]["total_bytes"]:
                return f"fits, and {parameters} bytes of parameters are more than the card"
        return None


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("peakcast")
    arguments.add_argument("data", type=pathlib.Path)
    arguments.add_argument("--runs", type=int, default=120)
    arguments.add_argument("--seed", type=int, default=1)
    asked = arguments.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        walk = Walk(asked.peakcast, asked.data, pathlib.Path(folder), asked.seed)
        for _ in range(asked.runs):
            found = walk.run()
            if found and found[1]:
                failed += 1
                print("peakcast", " ".join(repr(word[:200]) for word in found[0]), "\n  ", found[1])
    print(f"{asked.runs} runs, seed {asked.seed}: {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
