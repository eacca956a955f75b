#!/usr/bin/env python3
"""Draws the memory counters of timelines over each other.

usage: plot_timelines.py OUT.png TITLE LABEL=TIMELINE.json [LABEL=TIMELINE.json ...]

A timeline is what `peakcast predict ... --timeline FILE` writes. Reserved memory is a line per
timeline, allocated memory the filled area of the first.
"""
import json
import sys

GIB = 1 << 30
COLOURS = ["#c1440e", "#1f6f8b", "#6b8e23", "#5b4b8a"]


def counters(path):
    """Time in ms, allocated and reserved GiB, as the file has them."""
    with open(path, encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    samples = [(e["ts"] / 1000, e["args"]) for e in events if e["ph"] == "C" and e["name"] == "memory"]
    if not samples:
        sys.exit(f"{path}: no memory counter in it")
    return ([t for t, _ in samples], [a["allocated_bytes"] / GIB for _, a in samples],
            [a["reserved_bytes"] / GIB for _, a in samples])


def pyplot():
    """matplotlib without a window; imported late, so that --help needs none of it."""
    try:
        import matplotlib
    except ImportError:
        sys.exit(f"plot_timelines.py: this Python ({sys.executable}) has no matplotlib; drawing needs it")
    matplotlib.use("Agg")
    import matplotlib.pyplot
    return matplotlib.pyplot


def main():
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__.strip())
        return
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    plt = pyplot()
    out, title = sys.argv[1:3]
    figure, axes = plt.subplots(figsize=(9, 3.6), dpi=130)
    for i, argument in enumerate(sys.argv[3:]):
        label, _, path = argument.partition("=")
        time, allocated, reserved = counters(path)
        colour = COLOURS[i % len(COLOURS)]
        if i == 0:
            axes.fill_between(time, allocated, step="post", color="#d9d2c5", linewidth=0,
                              label="allocated")
        axes.step(time, reserved, where="post", color=colour, linewidth=1.6,
                  label=f"reserved, {label}: {max(reserved):.2f} GiB")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("time (ms)")
    axes.set_ylabel("GiB")
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(out, metadata={"Software": None})


main()
