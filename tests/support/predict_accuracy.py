#!/usr/bin/env python3
"""Predicts every recorded run from its description alone and prints, as Markdown, how exact that was.

usage: predict_accuracy.py PEAKCAST GROUNDTRUTH [NAME_PART]

For each recording of GROUNDTRUTH, its traces/ and attributed/: `predict` with the recorded scenario's flags,
the peaks beside the recorded ones, and `trace diff` of the generated program and the recorded one.
For each search of GROUNDTRUTH/oom: `fit`. For each timing: the step time.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

# The models of the recordings (capture.py) in the command line's words.
MODELS = {
    "bert-large-mlm": ["--model", "bert-large", "--task", "mlm"],
    "bert-base-mlm": ["--model", "bert-base", "--task", "mlm"],
    "bert-large-cls": ["--model", "bert-large", "--task", "classification"],
    "gpt2-medium": ["--model", "gpt2-medium"],
    "gpt2-long": ["--model", "gpt2-long"],
    "llama-1b": ["--model", "llama-1b"],
    "llama-7b": ["--model", "llama-7b"],
    "vit-large": ["--model", "vit-large", "--set", "num_labels=1000"],
    "mixtral-small": ["--model", "mixtral-small"],
    "qwen2-0.5b": ["--model", "qwen2-0.5b"],
    "t5-large": ["--model", "t5-large"],
}
AMP = {"bfloat16": "bf16-amp", "float16": "fp16-amp"}
PURE = {"bfloat16": "bf16", "float16": "fp16"}
SHARD = {"FULL_SHARD": "full", "SHARD_GRAD_OP": "grad-op", "NO_SHARD": "none", "HYBRID_SHARD": "hybrid"}
PREFETCH = {"BACKWARD_PRE": "pre", "BACKWARD_POST": "post", None: "none", "": "none"}


def flags_of(scenario, shapes, varied=None):
    """The scenario of a recording as flags; `varied` is left out."""
    s = scenario
    flags = list(MODELS[s["model"]])
    for key, value in (s.get("overrides") or {}).items():
        flags += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    if s.get("varlen"):
        flags += ["--batches", ",".join(f"{p['batch']}x{p['seq']}" for p in shapes)]
    else:
        flags += [] if varied == "batch" else ["--batch", str(s["batch"])]
        flags += [] if varied == "seq" or s["model"] == "vit-large" else ["--seq", str(s["seq"])]
    flags += ["--iterations", str(s.get("iters", 3))]
    if s.get("amp"):
        flags += ["--precision", AMP[s["amp"]]]
    if s.get("param_dtype"):
        flags += ["--precision", PURE[s["param_dtype"]]]
    flags += ["--attention", s.get("attn", "sdpa"), "--optimizer", s.get("opt", "adamw")]
    flags += ["--accumulate", str(s["accum"])] if s.get("accum") else []
    flags += ["--clip-grad"] if s.get("clip") else []
    flags += ["--dispatch-mode"] if s.get("oplog") else []
    flags += [] if s.get("zero_first", True) else ["--zero-grad", "after"]
    if s.get("ckpt"):
        flags += ["--checkpoint", "full-reentrant" if s.get("reentrant") else "full"]
    if "cudaMallocAsync" in (s.get("alloc_conf") or ""):
        flags += ["--policy", "cuda-malloc-async"]
    elif s.get("alloc_conf"):
        flags += ["--alloc-conf", s["alloc_conf"]]
    z = s.get("zero")
    if z:  # DeepSpeed clips by itself
        flags += ["--parallel", f"zero{z['stage']}", "--world", str(z["world"])]
    d = s.get("fsdp")
    if d:
        # DDP on one card was NCCL with one rank; its `world` is a label.
        ddp = d["version"] == "ddp"
        world = 2 if "2gpu" in s["name"] else 1 if ddp else d["world"]
        flags += ["--parallel", "ddp" if ddp else f"fsdp{d['version']}", "--world", str(world)]
        if d.get("bf16"):
            flags += ["--shard-precision", "bf16"]
            flags += ["--reduce-precision", "fp32"] if d["version"] == 2 else []
        flags += ["--shard", SHARD[d["strategy"]]] if d.get("strategy") else []
        if "reshard" in d:
            flags += ["--reshard-after-forward", "on" if d["reshard"] else "off"]
        flags += ["--backward-prefetch", PREFETCH[d["prefetch"]]] if "prefetch" in d else []
        if "limit_all_gathers" in d:
            flags += ["--limit-all-gathers", "on" if d["limit_all_gathers"] else "off"]
        flags += ["--bucket-view", "on"] if d.get("bucket_view") else []
        flags += ["--bucket-mb", str(d["bucket_mb"])] if d.get("bucket_mb") else []
    return flags


def run(program, *arguments):
    done = subprocess.run([program, *arguments, "-q"], capture_output=True, text=True)
    if done.returncode not in (0, 1):
        return None, done.stderr.strip()
    return done.stdout, ""


def error(predicted, recorded):
    return "=" if predicted == recorded else f"{100 * (predicted / recorded - 1):+.3f} %"


def traces(program, root, part):
    same_program, same_memory, rows = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for path in [p for at in ("traces/", "attributed/", "") for p in sorted(root.glob(f"{at}*.json"))]:
            if part not in path.stem:
                continue
            recorded = json.loads(path.read_text())
            if "scenario" not in recorded:  # a random program is no training run
                continue
            flags = flags_of(recorded["scenario"], recorded["per_iter"])
            limit = ["--limit", str(recorded["allowed_bytes"])] if recorded.get("allowed_bytes") else []
            out, fault = run(program, "predict", *flags, *limit, "--format", "json")
            if out is None:
                rows.append(f"| {path.stem} | {fault} | | | | |")
                continue
            predicted, final = json.loads(out), recorded["final"]
            peaks = [error(predicted["peak"][f"{name}_bytes"], final[f"{name}_bytes.all.peak"])
                     for name in ("allocated", "active", "reserved")]
            pairs = list(zip(predicted["iterations"], recorded["per_iter"]))
            equal = sum(p["peak_allocated_bytes"] == r["allocated_bytes.all.peak"]
                        and p["peak_reserved_bytes"] == r["reserved_bytes.all.peak"] for p, r in pairs)
            events, all_events = "", False
            trace = path.with_suffix(".csv.zst")
            if trace.exists():
                generated = f"{scratch}/generated.pkt"
                skip = {"--policy", "--alloc-conf"}
                plain = [f for i, f in enumerate(flags) if f not in skip and (i == 0 or flags[i - 1] not in skip)]
                made, _ = run(program, "trace", "generate", generated, "--force", *plain)
                diff, _ = run(program, "trace", "diff", str(trace), generated, "--format", "json")
                if made is not None and diff is not None:
                    diff = json.loads(diff)
                    events = f"{diff['matched']} of {diff['ops_a']}"
                    all_events = diff["identical"]
            if peaks == ["=", "=", "="] and equal == len(pairs):
                (same_program if all_events else same_memory).append(f"`{path.stem}` ({events})")
            else:
                rows.append(f"| `{path.stem}` | {' | '.join(peaks)} | {equal} of {len(pairs)} | {events} |")
    total = len(same_program) + len(same_memory) + len(rows)
    print(f"{total} recorded runs. Every allocation and free in order, every peak and every iteration's figures equal, "
          f"{len(same_program)}: {', '.join(same_program)}.\n")
    print("Every peak and every iteration's figures equal, events in another order in places (equal of recorded), "
          f"{len(same_memory)}: {', '.join(same_memory)}.\n")
    print("The others:\n")
    print("| recording | allocated peak | active peak | reserved peak | iterations equal | events equal |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows) + "\n")


def searches(program, root, part):
    if not (root / "oom").exists():
        return
    print("| search | recorded: fits, out of memory | predicted |")
    print("|---|---|---|")
    for path in sorted(root.glob("oom/*.json")):
        if part not in path.stem:
            continue
        search = json.loads(path.read_text())
        config, step = search["config"], search["config"].get("step", 1)
        scenario = dict(config["base"], name=path.stem)
        out, fault = run(program, "fit", *flags_of(scenario, [], config["vary"]), "--vary", config["vary"],
                         "--max", str(config["hi"] * step), "--step", str(step),
                         "--limit", str(search["trials"][0]["allowed"]), "--format", "json")
        if out is None:
            print(f"| {path.stem} | {search['max_ok']}, {search['first_oom']} | {fault} |")
            continue
        fit = json.loads(out)
        where = fit["first_oom_at"] or {}
        print(f"| {path.stem} | {search['max_ok']}, {search['first_oom']} | {fit['largest_fit']}, {fit['first_oom']}"
              f" (iteration {where.get('iteration')}, {where.get('phase')}, `{where.get('op')}`) |", flush=True)
    print()


def timings(program, root, part):
    if not (root / "timing").exists():
        return
    print("| run alone on the card | measured step | predicted step | error | device memory error |")
    print("|---|---|---|---|---|")
    for path in sorted(root.glob("timing/*.json")):
        if part not in path.stem:
            continue
        recorded = json.loads(path.read_text())
        shapes = [{"batch": b, "seq": s} for b, s in recorded.get("batches", [])]
        out, fault = run(program, "predict", *flags_of(recorded["scenario"], shapes), "--format", "json")
        if out is None:
            print(f"| {path.stem} | {fault} | | | |")
            continue
        predicted = json.loads(out)
        # The first iteration loads kernels; the recordings' own iterations after it are the step.
        measured = sorted(recorded["gpu_ms"][1:])
        steps = sorted(i["duration_ns"] / 1e6 for i in predicted["iterations"][1:])
        m, p = sum(measured) / len(measured), sum(steps) / len(steps)
        device = predicted["peak"]["device_bytes"]
        print(f"| {path.stem} | {m:.1f} ms | {p:.1f} ms | {100 * (p / m - 1):+.1f} % |"
              f" {100 * (device / recorded['device_used'] - 1):+.2f} % |", flush=True)


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    program, root = sys.argv[1], pathlib.Path(sys.argv[2])
    part = sys.argv[3] if len(sys.argv) == 4 else ""
    traces(program, root, part)
    searches(program, root, part)
    timings(program, root, part)


if __name__ == "__main__":
    main()
