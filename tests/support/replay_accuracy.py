#!/usr/bin/env python3
"""Replays every recording of a folder (or of its traces/, fuzz/ and attributed/) and prints how exact that was, as Markdown.

usage: replay_accuracy.py PEAKCAST RECORDINGS

Twice each: with the recorded addresses (every event, every final figure and block compared) and with
modelled ones (the peak and the segments compared). Reads what the program prints; computes nothing
a second time.
"""
import json
import pathlib
import subprocess
import sys


def replay(program, trace, *flags):
    run = subprocess.run([program, "replay", str(trace), "--format", "json", "-q", *flags],
                         capture_output=True, text=True)
    if run.returncode not in (0, 1):
        sys.exit(f"{trace}: {run.stderr.strip()}")
    return json.loads(run.stdout)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    program, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    rows, exact, equal_peak, equal_all = [], 0, 0, 0
    kinds = ("traces", "fuzz", "attributed", folder.name)
    traces = [t for t in sorted(folder.glob("**/*.csv.zst")) if t.parent.name in kinds]
    for trace in traces:
        recorded = replay(program, trace, "--verify")
        verify = recorded["verify"]
        whole = (verify["matched"] == verify["events"] and not verify["final_differences"]
                 and not verify["segments_different"])
        exact += whole
        modelled = replay(program, trace, "--addresses", "modelled")
        peak = modelled["peak"]["reserved_bytes"] == recorded["peak"]["reserved_bytes"]
        same = all(modelled[key] == recorded[key] for key in ("peak", "final", "counts"))
        equal_peak += peak
        equal_all += same
        if not (whole and same):
            difference = modelled["peak"]["reserved_bytes"] - recorded["peak"]["reserved_bytes"]
            others = sorted(f"{part} {name.removesuffix('_bytes').replace('_', ' ')}"
                            for part in ("peak", "final", "counts") for name in recorded[part]
                            if recorded[part][name] != modelled[part][name])
            rows.append((f"{trace.parent.name}/{trace.name.removesuffix('.csv.zst')}",
                         f"{verify['matched']} of {verify['events']}",
                         f"{difference / 2**20:+.0f} MiB", ", ".join(others)))
    print(f"{len(traces)} recordings: {exact} exact with recorded addresses "
          f"(every event, final figure and block); with modelled addresses {equal_peak} have the "
          f"same reserved peak and {equal_all} the same figures throughout.\n")
    print("| recording | events, recorded addresses | reserved peak, modelled addresses | other figures that differ |")
    print("|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


main()
