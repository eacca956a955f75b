#!/usr/bin/env python3
"""How near the floor policies stay on many traces, and what that costs: `peakcast compare` on each, summed up.

    tests/support/policy_study.py build/release/peakcast ../shared/groundtruth/traces ../shared/groundtruth/programs

Prints, per policy: reserved peak over the floor in percent (median, nine in ten, most) and on how many traces it is
within 1 %; driver calls, driver time less PyTorch's native allocator's and allocator time against its (medians, most);
and with --repeat N on how many traces each repeat of the last iteration makes no driver call. Traces that are the same
program under other settings or caps (equal floor and equal native figures) count once. --worst lists a policy's worst.
"""
import argparse
import collections
import json
import pathlib
import subprocess
import sys

NATIVE = "pytorch"
POLICIES = [NATIVE, "pytorch+expandable_segments:True", "gmlake", "cuda-malloc-async", "peakcast", "peakcast+fast"]


def rank(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * (len(ordered) - 1) + 0.5))]


def compare(program, trace, policies, repeat, capped):
    words = [program, "compare", str(trace), "--policy", ",".join(policies), "--pack-steps", "1", "--format", "json", "-q"]
    if not capped:  # what a policy needs, not what it is allowed
        words += ["--limit", "1T", "--capacity", "1T"]
    # Settings that a recording ran under are not what is compared.
    words += ["--alloc-conf", ""]
    if repeat:
        words += ["--repeat", str(repeat)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode > 1:
        print(f"{trace}: {done.stderr.strip()}", file=sys.stderr)
        return None
    return json.loads(done.stdout)


def traces_in(paths):
    for path in map(pathlib.Path, paths):
        yield from sorted(path.glob("*.csv.zst")) if path.is_dir() else [path]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("traces", nargs="+", help="files or folders of *.csv.zst")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--repeat", type=int, default=0)
    parser.add_argument("--capped", action="store_true", help="under the recorded limits and cards")
    parser.add_argument("--smallest", type=float, default=0, help="only floors of so many GB and more")
    parser.add_argument("--worst", type=int, default=0, metavar="N")
    flags = parser.parse_args()
    policies = flags.policies.split(",")
    if NATIVE not in policies:
        policies.insert(0, NATIVE)

    rows = collections.defaultdict(list)
    seen = set()
    for trace in traces_in(flags.traces):
        answer = compare(flags.program, trace, policies, flags.repeat, flags.capped)
        if answer is None or answer["floor_bytes"] < flags.smallest * 1e9:
            continue
        by_policy = dict(zip(policies, answer["policies"]))
        native = by_policy[NATIVE]
        same = (answer["floor_bytes"], native["peak_reserved_bytes"], native["allocator_time_ns"])
        if same in seen:
            continue
        seen.add(same)
        for policy, figures in by_policy.items():
            rows[policy].append((trace.name.removesuffix(".csv.zst"), figures, native))

    print(f"{len(seen)} programs")
    print("| policy | over the floor, %: median | nine in ten | most | within 1 % | driver calls, median "
          "| driver ms more than native: median | most | allocator time / native: median | most | out of memory |")
    print("|---|" + "--:|" * 10)
    for policy in policies:
        got = rows[policy]
        over = [f["over_floor_percent"] for _, f, _ in got]
        more = [(f["device_time_ns"] - n["device_time_ns"]) / 1e6 for _, f, n in got]
        ratio = [f["allocator_time_ns"] / n["allocator_time_ns"] for _, f, n in got]
        print(f"| `{policy}` | {rank(over, .5):.2f} | {rank(over, .9):.2f} | {max(over):.2f} "
              f"| {sum(o <= 1 for o in over)} | {rank([f['device_calls'] for _, f, _ in got], .5)} "
              f"| {rank(more, .5):.1f} | {max(more):.1f} | {rank(ratio, .5):.2f} | {max(ratio):.2f} "
              f"| {sum(f['ooms'] > 0 for _, f, _ in got)} |")
    if flags.repeat:
        print("\ntraces without a driver call, by repeat of the last iteration:")
        for policy in policies:
            quiet = [[r["device_calls"] == 0 for r in f["repeats"]] for _, f, _ in rows[policy] if f.get("repeats")]
            print(f"{policy:34}" + " ".join(f"{sum(column):4}" for column in zip(*quiet)) + f" of {len(quiet)}")
    if flags.worst:
        for policy in policies:
            print(f"\n{policy}")
            for name, f, _ in sorted(rows[policy], key=lambda row: -row[1]["over_floor_percent"])[:flags.worst]:
                print(f"  {f['over_floor_percent']:7.2f} %  {f['device_time_ns'] / 1e6:8.1f} ms  {name}")


if __name__ == "__main__":
    main()
