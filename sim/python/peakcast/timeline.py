"""Memory over time, as a list of moments: what plot.timeline() draws and scripts can use."""
import json
import os
import tempfile
from dataclasses import dataclass, field
from typing import Any, Dict, List

from . import _program
from ._words import words_of


@dataclass
class Timeline:
    """Levels in bytes at ascending times in milliseconds; each holds until the next."""

    ms: List[float] = field(default_factory=list)
    allocated_bytes: List[int] = field(default_factory=list)
    reserved_bytes: List[int] = field(default_factory=list)
    ooms_ms: List[float] = field(default_factory=list)
    """When a request failed."""

    @classmethod
    def read(cls, path: "str | os.PathLike[str]") -> "Timeline":
        """From a file that `--timeline FILE` wrote (its first process)."""
        with open(path, encoding="utf-8") as file:
            events = json.load(file)["traceEvents"]
        found = cls()
        for event in events:
            if event["pid"] != 0:
                continue
            if event["ph"] == "C" and event["name"] == "memory":
                found.ms.append(event["ts"] / 1000)
                found.allocated_bytes.append(event["args"]["allocated_bytes"])
                found.reserved_bytes.append(event["args"]["reserved_bytes"])
            elif event["ph"] == "i" and event["name"] == "out of memory":
                found.ooms_ms.append(event["ts"] / 1000)
        return found


def _of(command: str, words: List[str], given: Any = None) -> Timeline:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "timeline.json")
        _program.run([command, *words, f"--timeline={path}", "--quiet"], given)
        return Timeline.read(path)


def predicted(model: str, **run_flags: Any) -> Timeline:
    """Memory over the simulated time of a run; arguments as predict()."""
    return _of("predict", words_of("predict", {"model": model, **run_flags}))


def replayed(trace: Any, **other_flags: Any) -> Timeline:
    """Memory over the recorded time of a trace; arguments as replay()."""
    from . import _trace

    name, given = _trace(trace)
    return _of("replay", words_of("replay", other_flags) + [name], given)


def together(**timelines: Timeline) -> Dict[str, Timeline]:
    """Names for plot.timeline(): `together(native=..., expandable=...)`."""
    return timelines
