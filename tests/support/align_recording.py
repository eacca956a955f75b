#!/usr/bin/env python3
"""Aligns a generated program with a recording and prints where they part.

    align_recording.py BUILD_DIR RECORDING [--show N]

RECORDING is a path without its ending (.csv.zst and .json stand beside each other); attributed
recordings show which operator asked. An event is an allocation (its size) or a free (which of the
earlier allocations goes). Differences are listed with what both sides did; order-only differences
among neighbouring frees are counted apart.
"""
import difflib, subprocess, sys


def recorded(path):
    text = subprocess.run(["zstdcat", path], capture_output=True, text=True, check=True).stdout
    live, events, count = {}, [], 0
    for line in text.splitlines():
        action, addr, size, stream, rest = (line.split(",", 4) + [""])[:5]
        if action == "alloc":
            live[addr] = count
            events.append(("+", int(size), count, int(stream, 16), rest))
            count += 1
        elif action == "free_requested":
            events.append(("-", int(size), live.pop(addr), int(stream, 16), rest))
        elif action == "oom":
            events.append(("!", int(size), -1, int(stream, 16), rest))
    return events


def generated(build, json_path):
    run = subprocess.run([f"{build}/tests/generate_dump", json_path], capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    events = []
    for line in run.stdout.splitlines():
        if line[0] == "#":
            continue
        name, size, stream, label = (line.split(" ", 3) + [""])[:4]
        events.append((name[0], int(size), int(name[1:]), int(stream), label))
    return events


def main():
    build, base = sys.argv[1:3]
    show = int(sys.argv[sys.argv.index("--show") + 1]) if "--show" in sys.argv else 12
    a, b = recorded(base + ".csv.zst"), generated(build, base + ".json")
    # A free is named by what it frees: the n-th allocation of the recording and of the program are
    # the same buffer while the allocations agree, so frees are compared by number after alignment.
    match, pairs = [], {}
    keys_a = [(e[0], e[1]) for e in a]
    keys_b = [(e[0], e[1]) for e in b]
    same, order, shown, i, j = 0, 0, 0, 0, 0
    back = {}
    matcher_needed = False
    while i < len(a) and j < len(b):
        ea, eb = a[i], b[j]
        ok = ea[:2] == eb[:2] and (ea[0] != "-" or pairs.get(ea[2]) == eb[2])
        if ok:
            if ea[0] == "+":
                pairs[ea[2]], back[eb[2]] = eb[2], ea[2]
            same, i, j = same + 1, i + 1, j + 1
            continue
        # A run of frees in another order is not more than that.
        m = i
        while m < len(a) and a[m][0] == "-":
            m += 1
        n = j
        while n < len(b) and b[n][0] == "-":
            n += 1
        if m - i == n - j and m > i and {pairs.get(e[2]) for e in a[i:m]} == {e[2] for e in b[j:n]}:
            order += m - i
            i, j = m, n
            continue
        if shown < show:
            print(f"--- recorded {i}, generated {j}")
            for k in range(6):
                left = a[i + k] if i + k < len(a) else None
                right = b[j + k] if j + k < len(b) else None
                fa = f"{left[0]}{left[2] if left[0]=='+' else back.get(pairs.get(left[2]), left[2])} {left[1]} {left[4][:70]}" if left else ""
                fb = f"{right[0]}{right[2] if right[0]=='+' else back.get(right[2], right[2])} {right[1]} {right[4]}" if right else ""
                print(f"  {fa:95s} | {fb}")
        shown += 1
        # Resynchronise: the nearest pair of positions from which eight events agree in kind and size.
        best = None
        for total in range(1, 400):
            for da in range(0, total + 1):
                db = total - da
                x, y = i + da, j + db
                if x + 8 <= len(a) and y + 8 <= len(b) and keys_a[x:x + 8] == keys_b[y:y + 8]:
                    best = (x, y)
                    break
            if best:
                break
        if not best:
            break
        i, j = best
    print(f"{base.split('/')[-1]}: recorded {len(a)}, generated {len(b)}, matched {same}, "
          f"other order {order}, places that differ {shown}")


main()
