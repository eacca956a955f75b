"""Figures of results, with matplotlib (`pip install peakcast[plot]`). Each takes axes or makes its own, and returns them."""
from typing import Any, Dict, Mapping, Optional, Sequence, Union

import matplotlib.pyplot as plt

from .results import Comparison, Explanation, Fit, Prediction
from .timeline import Timeline

GIB = 1 << 30
MIB = 1 << 20
COLOURS = ["#c1440e", "#1f6f8b", "#6b8e23", "#5b4b8a", "#d9a441", "#a8687c"]
_CATEGORIES = {"parameters": "#1f6f8b", "gradients": "#c1440e", "optimizer": "#6b8e23", "activations": "#d9a441",
               "temporaries": "#a8687c", "inputs": "#5b4b8a", "workspaces": "#3b9b8f", "communication": "#7a6a58"}


def _axes(axes: Optional[Any], height: float = 3.6) -> Any:
    if axes is None:
        _, axes = plt.subplots(figsize=(9, height), dpi=110)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def timeline(timelines: Union[Timeline, Mapping[str, Timeline]], title: str = "", *, limit_bytes: Optional[int] = None,
             over: str = "time", axes: Optional[Any] = None) -> Any:
    """Reserved memory as a line per timeline over the allocated memory of the first.

    `over="order"` draws change after change, however long each lasted.
    """
    named = {"": timelines} if isinstance(timelines, Timeline) else timelines
    axes = _axes(axes)
    for number, (name, line) in enumerate(named.items()):
        at_x = line.ms if over == "time" else range(len(line.ms))
        if number == 0:
            axes.fill_between(at_x, [b / GIB for b in line.allocated_bytes], step="post", color="#d9d2c5", linewidth=0,
                              label=f"allocated: {max(line.allocated_bytes) / GIB:.2f} GiB")
        reserved = [b / GIB for b in line.reserved_bytes]
        axes.step(at_x, reserved, where="post", color=COLOURS[number % len(COLOURS)],
                  linewidth=3 if number == 0 and len(named) > 1 else 1.5,  # what lies under another line still shows
                  label=f"reserved{', ' + name if name else ''}: {max(reserved):.2f} GiB")
        for at in line.ooms_ms[:1] if over == "time" else ():
            axes.axvline(at, color=COLOURS[number % len(COLOURS)], linestyle=":", label=f"out of memory{', ' + name if name else ''}")
    if limit_bytes is not None:
        axes.axhline(limit_bytes / GIB, color="#555", linestyle="--", linewidth=1, label=f"limit: {limit_bytes / GIB:.2f} GiB")
    axes.set(xlabel="time (ms)" if over == "time" else "changes, in order", ylabel="GiB", ylim=(0, None))
    axes.margins(x=0)
    if title:
        axes.set_title(title, loc="left", fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=8, frameon=False)
    return axes


def breakdown(predictions: Union[Prediction, Mapping[str, Prediction]], title: str = "What lives at the peak", *,
              axes: Optional[Any] = None) -> Any:
    """A bar per prediction, cut into what lives at its allocated peak."""
    named = {"": predictions} if isinstance(predictions, Prediction) else predictions
    axes = _axes(axes, 0.9 + 0.5 * len(named))
    left = [0.0] * len(named)
    for category, colour in _CATEGORIES.items():
        sizes = [p.to_dict()["peak_breakdown"].get(category + "_bytes", 0) / GIB for p in named.values()]
        if any(sizes):
            axes.barh(list(named), sizes, left=left, color=colour, label=category, height=0.62)
            left = [a + b for a, b in zip(left, sizes)]
    axes.set(xlabel="GiB")
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=4, fontsize=8, frameon=False)
    return axes


def policies(comparison: Comparison, title: str = "Reserved at the most", *, axes: Optional[Any] = None) -> Any:
    """A bar per policy; the floor, which none can go below without moving data, as a line."""
    rows = sorted(comparison.to_dict()["policies"], key=lambda row: row["peak_reserved_bytes"])
    axes = _axes(axes, 1.0 + 0.28 * len(rows))
    sizes = [row["peak_reserved_bytes"] / GIB for row in rows]
    axes.barh([row["policy"] for row in rows], sizes, height=0.66,
              color=[COLOURS[0] if row["ooms"] else COLOURS[1] for row in rows])
    for at, row in enumerate(rows):
        note = " out of memory" if row["ooms"] else f" +{row['over_floor_percent']:.0f} %"
        axes.text(sizes[at], at, note, va="center", fontsize=8)
    floor = comparison.floor_bytes / GIB
    axes.axvline(floor, color="#222", linewidth=1)
    axes.text(floor, -0.75, f"floor {floor:.2f} GiB", ha="center", va="bottom", fontsize=8)
    axes.set(xlabel="GiB", xlim=(0, 1.12 * max(sizes)), ylim=(len(rows) - 0.4, -0.7))
    axes.set_title(title, loc="left", fontsize=10, pad=18)
    return axes


def trials(fit: Fit, title: str = "", *, axes: Optional[Any] = None) -> Any:
    """What a search tried: reserved memory by value, and where it ran out."""
    axes = _axes(axes)
    for fits, colour, name in ((True, COLOURS[1], "fits"), (False, COLOURS[0], "out of memory")):
        chosen = [t for t in fit.to_dict()["trials"] if t["fits"] == fits]
        axes.scatter([t["value"] for t in chosen], [t["peak_reserved_bytes"] / GIB for t in chosen], color=colour, label=name)
    axes.set(xlabel=fit.to_dict()["vary"], ylabel="GiB reserved at the most", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(title or f"The largest that fits: {fit.largest_fit}", loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    return axes


def causes(explanation: Explanation, title: str = "", *, axes: Optional[Any] = None) -> Any:
    """A bar per cause of memory that is reserved and serves nobody; they add up to it."""
    rows = explanation.to_dict()["causes"]
    axes = _axes(axes, 0.9 + 0.4 * len(rows))
    sizes = [row["bytes"] / MIB for row in rows]
    axes.barh([row["cause"].replace("_", " ") for row in rows], sizes, color=COLOURS[0], height=0.62)
    for at, row in enumerate(rows):
        axes.text(sizes[at], at, f" {sizes[at]:.1f} MiB in {row['segments']} segments", va="center", fontsize=8)
    peak = explanation.to_dict()["peak"]
    axes.set(xlabel="MiB", xlim=(0, 1.35 * max(sizes, default=1)))
    axes.invert_yaxis()
    axes.set_title(title or f"{peak['unused_bytes'] / MIB:.1f} MiB of {peak['reserved_bytes'] / GIB:.2f} GiB reserved serve nobody",
                   loc="left", fontsize=10)
    return axes


def grid(rows: Sequence[Dict[str, Any]], x: str, y: str, value: str = "peak_device_bytes", title: str = "", *,
         axes: Optional[Any] = None) -> Any:
    """A sweep over two flags: a cell a point, in GiB; what does not fit is hatched."""
    across, down = (list(dict.fromkeys(row[name] for row in rows)) for name in (x, y))
    axes = _axes(axes, 1.0 + 0.5 * len(down))
    most = max(row.get(value) or 0 for row in rows)
    for row in rows:
        at, level = across.index(row[x]), down.index(row[y])
        fits = row["verdict"] in ("fits", "tight")
        share = (row.get(value) or 0) / most if most else 0
        axes.add_patch(plt.Rectangle((at - 0.5, level - 0.5), 1, 1, edgecolor="white", linewidth=1.5,
                                     facecolor=plt.get_cmap("YlGnBu")(0.08 + 0.6 * share) if fits else "#f3d9d3", hatch=None if fits else "///"))
        words = f"{row[value] / GIB:.1f}" if fits else "out of memory" if row["verdict"] == "out_of_memory" else row["verdict"]
        axes.text(at, level, words, ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.5, len(across) - 0.5), ylim=(len(down) - 0.5, -0.5), xlabel=x, ylabel=y)
    axes.set_xticks(range(len(across)), [str(name) for name in across])
    axes.set_yticks(range(len(down)), [str(name) for name in down])
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title(title or f"{value.replace('_bytes', '').replace('_', ' ')}, GiB", loc="left", fontsize=10)
    return axes
