#!/usr/bin/env python3
"""Holds captures to recordings of real cards: runs what was recorded under `peakcast capture` and compares.

    capture_oracle.py PEAKCAST PYTHON GROUNDTRUTH [NAME...]

NAME is a file of GROUNDTRUTH's traces/, attributed/, programs/ or today/ without its ending; without
names, all of traces/ and attributed/. Equal means: the same allocator events (action, size, stream in
order of first use), the frees between two other events taken as a set, for their order among
themselves is a matter of Python's and autograd's reference counts. Prints a line a recording; exits 1
when one differs.
"""
import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile

CARDS = {"NVIDIA H100 80GB HBM3": "h100-80g", "NVIDIA H200": "h200-141g"}
FREES = ("free_requested", "free_completed")


def rows_of(text):
    streams = {}
    rows = []
    for row in csv.reader(io.StringIO(text)):
        if row[0] == "snapshot":
            continue
        stream = streams.setdefault(row[3], len(streams))
        # An oom's address is the card's free memory; sizes of all others count.
        rows.append((row[0], int(row[2]), stream))
    return rows


def without_teardown(recorded, captured):
    """What follows the recording's end: it was written before the program's last names went."""
    frees_after = sum(1 for row in recorded if row[0] in FREES)
    others = [i for i, row in enumerate(captured) if row[0] not in FREES]
    last = others[-1] + 1 if others else 0
    ending = len(recorded) - max((i + 1 for i, row in enumerate(recorded) if row[0] not in FREES), default=0)
    return captured[:last + ending] if frees_after else captured


def without_free_order(rows):
    out, frees = [], []
    for row in rows:
        if row[0] in FREES:
            frees.append(row)
            continue
        out += sorted(frees)
        frees = []
        out.append(row)
    return out + sorted(frees)


def peaks_of(rows, csv_text):
    live, reserved, allocated, top_reserved, top_allocated = {}, 0, 0, 0, 0
    for row in csv.reader(io.StringIO(csv_text)):
        action, address, size = row[0], row[1], int(row[2])
        rounded = max(512, (size + 511) // 512 * 512)
        if action == "alloc":
            live[address] = rounded
            allocated += rounded
        elif action == "free_requested":
            allocated -= live.pop(address, 0)
        elif action in ("segment_alloc", "segment_map"):
            reserved += size
        elif action in ("segment_free", "segment_unmap"):
            reserved -= size
        top_reserved, top_allocated = max(top_reserved, reserved), max(top_allocated, allocated)
    return top_allocated, top_reserved


def first_difference(a, b):
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return min(len(a), len(b)) if len(a) != len(b) else None


def find(groundtruth, name):
    for folder in ("traces", "attributed", "programs", "today"):
        if os.path.exists(f"{groundtruth}/{folder}/{name}.json"):
            return folder
    sys.exit(f"{name}: no such recording")


def command_of(folder, name, meta, groundtruth, python, scratch):
    """The program that was recorded, and what of the card its recording set from outside."""
    if folder == "programs":
        words = [python, f"{groundtruth}/programs/{meta['program']}", *meta["arguments"]]
        return words, ["--limit", str(meta["cap"])] if meta["cap"] else []
    scenario = dict(meta["scenario"])
    for key in ("gb", "attribute", "stacks", "pickle"):
        scenario.pop(key, None)
    with open(f"{scratch}/scenarios.json", "w") as file:
        json.dump([scenario], file)
    program = "capture_today.py" if folder == "today" else "capture.py"
    words = [python, f"{groundtruth}/{program}", f"{scratch}/scenarios.json", f"{scratch}/out"]
    fsdp = scenario.get("fsdp") or {}
    if "2gpu" in name:
        words = [python, "-m", "torch.distributed.run", "--nproc-per-node", str(fsdp["world"]), *words[1:], scenario["name"]]
    return words, []


def compare(peakcast, python, groundtruth, name, keep):
    folder = find(groundtruth, name)
    meta = json.load(open(f"{groundtruth}/{folder}/{name}.json"))
    card = meta.get("card") or meta["device"]["name"]
    total = meta.get("total_memory") or meta["device"]["total_memory"]
    recorded = subprocess.run(["zstd", "-dcq", f"{groundtruth}/{folder}/{name}.csv.zst"], capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory() as scratch:
        words, flags = command_of(folder, name, meta, groundtruth, python, scratch)
        trace = os.path.abspath(f"{keep}/{name}.pkt") if keep else f"{scratch}/run.pkt"
        done = subprocess.run([peakcast, "capture", "-q", "--gpu", CARDS[card], "--capacity", str(total), *flags, "--format", "json",
                               "--force", "-o", trace, "--", *words], capture_output=True, text=True, cwd=scratch)
        if not os.path.exists(trace):
            logs = "".join(open(f"{scratch}/out/{f}").read() for f in os.listdir(f"{scratch}/out") if f.endswith(".log")) if os.path.isdir(f"{scratch}/out") else ""
            return False, "no capture: " + (done.stderr + logs).strip()[-700:]
        captured = subprocess.run([peakcast, "trace", "convert", "-q", "--force", trace, f"{scratch}/run.csv"], capture_output=True, text=True)
        if captured.returncode:
            return False, captured.stderr
        captured = "".join(",".join(line.split(",")[:5]) + "\n" for line in open(f"{scratch}/run.csv").read().splitlines())
    a, b = rows_of(recorded), rows_of(captured)
    b = without_teardown(a, b)
    strict = a == b
    a_free, b_free = without_free_order(a), without_free_order(b)
    at = first_difference(a_free, b_free)
    (alloc_a, res_a), (alloc_b, res_b) = peaks_of(a, recorded), peaks_of(b, captured)
    off = lambda x, y: f"{100 * (y - x) / x:+.2f} %" if x != y else "="
    text = f"{len(a)} events, allocated {off(alloc_a, alloc_b)}, reserved {off(res_a, res_b)}"
    if at is None:
        return True, f"{'same' if strict else 'same but for frees'}: {text}"
    around = f"differs from {at} of {len(a_free)} ({len(b_free)} captured): recorded {a_free[at:at + 2]}, captured {b_free[at:at + 2]}"
    program = meta.get("oom") or "", "OOM" if any(r[0] == "oom" for r in b) else ""
    return False, f"DIFFERS: {text}; {around}" + (" [one ran out]" if bool(program[0]) != bool(program[1]) else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peakcast")
    parser.add_argument("python")
    parser.add_argument("groundtruth")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--keep", help="folder for the captured traces")
    given = parser.parse_intermixed_args()
    groundtruth = os.path.abspath(given.groundtruth)
    names = given.names or sorted(f[:-8] for d in ("traces", "attributed") for f in os.listdir(f"{groundtruth}/{d}") if f.endswith(".csv.zst"))
    good = 0
    for name in names:
        try:
            ok, text = compare(os.path.abspath(given.peakcast), given.python, groundtruth, name, given.keep)
        except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
            ok, text = False, f"FAILED: {error!r}"
        good += ok
        print(f"{name}: {text}", flush=True)
    print(f"{good} of {len(names)} the same but for the order of frees")
    return 0 if good == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
