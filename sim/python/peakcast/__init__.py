"""GPU memory of training runs, predicted: the program `peakcast` as functions.

    >>> import peakcast
    >>> run = peakcast.predict("bert-large", batch=16, seq=512, precision="bf16-amp")
    >>> run.fits, run.peak.reserved_bytes
    (True, 16976445440)
    >>> print(run)                      # what the program prints for people

Arguments are the program's flags with '_' for '-' (`peakcast.flags("predict")` lists them), and results are
its JSON as attributes. Wrong arguments raise peakcast.Error, a ValueError that names the nearest valid word.
Nothing here imports torch.
"""
import json
import os
import pickle as _pickle
import sys
import warnings
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Union

from . import _program
from .__main__ import program
from ._core import __version__
from ._program import Error
from ._words import flags_of, words_of
from .allocator import Allocator, use_allocator
from .results import Comparison, Explanation, Fit, Prediction, Replay, Result, Rows

__all__ = [
    "Allocator", "Comparison", "Error", "Explanation", "Fit", "Prediction", "Replay", "Result", "Rows", "__version__", "capture",
    "compare", "explain", "fit", "flags", "gpus", "include", "models", "plot", "policies", "predict", "program", "replay", "run", "sweep",
    "use_allocator",
]

Trace = Union[str, "os.PathLike[str]", Mapping[str, Any], bytes]
"""A trace: a file's path, the bytes of one, or a snapshot dict as torch.cuda.memory._snapshot() returns it."""
Progress = Union[bool, Callable[[str, int, int], None]]


def run(words: Sequence[str]) -> str:
    """Runs any command line, `["trace", "info", "run.csv.zst"]`, and returns what it printed.

    An exit status of 1 (it does not fit) is an answer and no error.
    """
    return _program.run(list(words))[1]


def flags(command: str) -> Dict[str, Dict[str, Any]]:
    """The flags of a command by name: value, default, help, repeatable."""
    return {name: dict(row) for name, row in flags_of(command).items()}


def _progress(wanted: Progress) -> Optional[Callable[[str, int, int], None]]:
    if callable(wanted):
        return wanted
    return _draw if wanted else None


def _draw(label: str, done: int, total: int) -> None:
    width = 40
    filled = width * done // total if total else width
    end = "\n" if done >= total else ""
    print(f"\r{label} [{'#' * filled}{' ' * (width - filled)}] {done}/{total}", end=end, file=sys.stderr, flush=True)


def _ask(command: str, words: List[str], kind: Callable[..., Any], given: Optional[bytes] = None,
         progress: Progress = False) -> Any:
    full = [*command.split(), *words]
    _, out, notes = _program.run([*full, "--format=json"], given, _progress(progress))
    data = json.loads(out)
    if data.get("engine") == "captured":  # the run's own program wrote to stderr, and is not run again for a text
        return kind(data)
    if notes:
        warnings.warn(notes.strip(), stacklevel=3)
    return kind(data, lambda: _program.run([*full, "--format=text", "--quiet"], given)[1])


def _trace(trace: Trace) -> "tuple[str, Optional[bytes]]":
    if isinstance(trace, (bytes, bytearray)):
        return "-", bytes(trace)
    if isinstance(trace, Mapping):
        return "-", _pickle.dumps(trace, protocol=4)
    return os.fspath(trace), None


def predict(model: Optional[str] = None, **run_flags: Any) -> Prediction:
    """Whether a training run fits on a card, and what takes the memory.

    `model` is a built-in name or a Hugging Face config.json; further arguments are the flags of
    `peakcast predict`: batch, seq, precision, optimizer, checkpoint, parallel, world, gpu, limit, policy, …

        predict("bert-large", batch=16, seq=512, precision="bf16-amp", gpu="a100-40g")
    """
    return _ask("predict", words_of("predict", {"model": model, **run_flags}), Prediction)


def fit(model: Optional[str] = None, *, progress: Progress = False, **run_flags: Any) -> Fit:
    """The largest batch or sequence, or the fewest ranks, that fit.

        fit("bert-large", vary="batch", max=512, seq=512, precision="bf16-amp", limit="16GiB").largest_fit
    """
    return _ask("fit", words_of("fit", {"model": model, **run_flags}), Fit, None, progress)


def compare(trace: Optional[Trace] = None, *, progress: Progress = False, **other_flags: Any) -> Comparison:
    """A trace, or a run described by flags, under several policies, beside the best packing.

        compare("run.csv.zst", policy=["pytorch", "gmlake"])
        compare(model="bert-large", batch=16)
    """
    name, given = (None, None) if trace is None else _trace(trace)
    words = words_of("compare", other_flags) + ([] if name is None else [name])
    return _ask("compare", words, Comparison, given, progress)


def replay(trace: Trace, **other_flags: Any) -> Replay:
    """Runs a trace through an allocator policy.

    `trace` is a file of any known format, the bytes of one, or a snapshot dict as
    torch.cuda.memory._snapshot() returns it.

        replay("run.pickle", alloc_conf="expandable_segments:True", limit="24GiB")
    """
    name, given = _trace(trace)
    return _ask("replay", words_of("replay", other_flags) + [name], Replay, given)


def explain(trace: Optional[Trace] = None, **other_flags: Any) -> Explanation:
    """Who holds the memory that a policy reserves and nobody uses."""
    name, given = (None, None) if trace is None else _trace(trace)
    return _ask("explain", words_of("explain", other_flags) + ([] if name is None else [name]), Explanation, given)


def sweep(grid: Union[str, "os.PathLike[str]", Mapping[str, Any]], *, jobs: Optional[int] = None,
          progress: Progress = False) -> Rows:
    """predict() for every point of a grid, on all cores, in the order of the grid.

    `grid` is a file, or the same as a dict: {"run": {flag: value}, "grid": {flag: [values]}}.

    A point without an answer has the verdict "error" and its reason under "error", and a warning names the first.

        sweep({"run": {"model": "bert-large"}, "grid": {"batch": [8, 16], "gpu": ["a100-40g", "h100-80g"]}})
    """
    name, given = ("-", json.dumps(grid).encode()) if isinstance(grid, Mapping) else (os.fspath(grid), None)
    words = ["sweep", *words_of("sweep", {"jobs": jobs}), name, "--format=json"]
    _, out, _, fault = _program.attempt(words, given, _progress(progress))
    if fault is not None:
        if not out:
            raise Error(fault)
        warnings.warn(fault, stacklevel=2)
    rows = Rows()
    for line in out.splitlines():
        row = json.loads(line)
        rows.append({**row.pop("point"), **{key: value for key, value in row.items() if key != "schema_version"}})
    return rows


def _table(command: str) -> Result:
    return _ask(command, [], Result)


def models() -> Result:
    """The built-in models."""
    return _table("models")


def gpus() -> Result:
    """The known cards."""
    return _table("gpus")


def policies() -> Result:
    """The allocator policies."""
    return _table("policies")


def include() -> str:
    """The folder to compile a policy of your own against: it holds `peakcast/peakcast_policy.h`.

        cc -shared -fPIC -I "$(python -c 'import peakcast; print(peakcast.include())')" mine.c -o mine.so
    """
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")


def capture(argv: Sequence[str], **capture_flags: Any) -> Prediction:
    """What a program of yours takes, run on an emulated card: no GPU is needed.

        capture([sys.executable, "train.py"], gpu="h100-80g", output="run.pkt")
    """
    argv = [argv] if isinstance(argv, (str, os.PathLike)) else argv
    words = [*words_of("capture", capture_flags), "--format=json", "--", *(os.fspath(word) for word in argv)]
    return Prediction(json.loads(_program.run(["capture", *words])[1]))


def __getattr__(name: str) -> Any:
    if name == "plot":  # matplotlib comes in with it
        import importlib

        return importlib.import_module(".plot", __name__)
    raise AttributeError(f"module 'peakcast' has no {name!r}")
