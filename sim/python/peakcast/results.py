"""What the functions return: the program's JSON, as objects with attributes.

The fields are those of `peakcast COMMAND --format json`. Sizes are integers in bytes under names that
end in `_bytes`, times integers in nanoseconds under names that end in `_ns`.
"""
import json
from typing import Any, Callable, Dict, Iterator, List, Optional


class Result:
    """A JSON object whose keys are attributes. `str()` is the program's text for people."""

    def __init__(self, data: Dict[str, Any], text: Optional[Callable[[], str]] = None):
        self._data = data
        self._text = text

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self._data:
            return _wrapped(self._data[name])
        raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {', '.join(self._data)}")

    def __getitem__(self, key: str) -> Any:
        return _wrapped(self._data[key])

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __dir__(self) -> List[str]:
        return [*super().__dir__(), *self._data]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Result) and self._data == other._data

    def __str__(self) -> str:
        return self._text() if self._text else json.dumps(self._data, indent=2)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({json.dumps(self._data)})"

    def to_dict(self) -> Dict[str, Any]:
        """The JSON object as plain dicts, lists, numbers and texts; changing it changes nothing here."""
        return json.loads(json.dumps(self._data))


def _size(size: int) -> str:
    for unit, of in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= of:
            return f"{size / of:.2f} {unit}"
    return f"{size} B"


def _wrapped(value: Any) -> Any:
    if isinstance(value, dict):
        return Result(value)
    if isinstance(value, list):
        return [_wrapped(item) for item in value]
    return value


class Prediction(Result):
    """What `predict` answers."""

    verdict: str
    """"fits", "tight" or "out_of_memory"."""
    peak: Any
    """requested_bytes, allocated_bytes, active_bytes, reserved_bytes, device_bytes: the largest of the run."""
    peak_breakdown: Any
    """parameters_bytes and so on: what lives at the allocated peak, and adds up to it."""
    iterations: List[Any]
    """batch, seq, peak_allocated_bytes, peak_reserved_bytes, duration_ns of each."""
    oom: Optional[Any]
    """Where it ran out of memory, or None."""
    counts: Any
    """allocs, frees, segments_allocated, segments_freed, alloc_retries, ooms."""

    def __str__(self) -> str:
        """The program's text; of a captured run, which would have to run again for it, the figures alone."""
        return self._text() if self._text else "\n".join(self._figures())

    def _figures(self) -> List[str]:
        peak, parts = self._data["peak"], self._data["peak_breakdown"]
        room = f" of {_size(self._data['gpu']['total_bytes'])}" if "gpu" in self._data else ""
        says = "FITS" if self.fits else "OUT OF MEMORY"
        lines = [f"{says}: {_size(peak['device_bytes'])}{room} at the most, {len(self._data['iterations'])} iterations", "",
                 "at the peak"]
        lines += [f"{name[:-6]:16} {_size(size):>12}" for name, size in parts.items() if size]
        lines += [f"{'= allocated':16} {_size(peak['allocated_bytes']):>12}", f"{'= reserved':16} {_size(peak['reserved_bytes']):>12}"]
        if not self.fits:
            lines += ["", self._data["oom"]["message"]]
        return lines

    @property
    def fits(self) -> bool:
        """Whether the run ends without an out-of-memory."""
        return self._data["oom"] is None


class Fit(Result):
    """What `fit` answers."""

    largest_fit: Optional[int]
    first_oom: Optional[int]
    first_oom_at: Optional[Any]
    trials: List[Any]


class Replay(Result):
    """What `replay` answers."""

    policy: str
    peak: Any
    final: Any
    counts: Any
    oom: Optional[Any]
    fragmentation: float
    """1 - allocated peak / reserved peak."""


class Comparison(Result):
    """What `compare` answers."""

    floor_bytes: int
    packed_bytes: int
    policies: List[Any]


class Explanation(Result):
    """What `explain` answers."""

    causes: List[Any]


class Rows(List[Dict[str, Any]]):
    """A table: one dict a row, columns in order."""

    def to_dict(self) -> List[Dict[str, Any]]:
        """The rows as a plain list."""
        return [dict(row) for row in self]

    def to_dataframe(self) -> Any:
        """The rows as a pandas.DataFrame (which has to be installed)."""
        import pandas

        return pandas.DataFrame(self)
