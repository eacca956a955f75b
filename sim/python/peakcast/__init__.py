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
import subprocess
import sys
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Union

from . import _core
from ._core import Error, __version__
from ._words import flags_of, words_of
from .allocator import Allocator, use_allocator
from .results import Comparison, Explanation, Fit, Prediction, Replay, Result, Rows

__all__ = [
    "Allocator", "Comparison", "Error", "Explanation", "Fit", "Prediction", "Replay", "Result", "Rows", "__version__", "capture",
    "compare", "explain", "fit", "flags", "gpus", "models", "plot", "policies", "predict", "replay", "run", "sweep",
    "use_allocator",
]

Trace = Union[str, "os.PathLike[str]", Mapping[str, Any], bytes]
"""A trace: a file's path, the bytes of one, or a snapshot dict as torch.cuda.memory._snapshot() returns it."""
Progress = Union[bool, Callable[[str, int, int], None]]


def run(words: Sequence[str]) -> str:
    """Runs any command line, `["trace", "info", "run.csv.zst"]`, and returns what it printed.

    An exit status of 1 (it does not fit) is an answer and no error.
    """
    return _core.run(list(words))[1]


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
    _, out, notes = _core.run([*full, "--format=json"], given, _progress(progress))
    if notes:
        import warnings

        warnings.warn(notes.strip(), stacklevel=3)
    return kind(json.loads(out), lambda: _core.run([*full, "--format=text", "--quiet"], given)[1])


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

        sweep({"run": {"model": "bert-large"}, "grid": {"batch": [8, 16], "gpu": ["a100-40g", "h100-80g"]}})
    """
    name, given = ("-", json.dumps(grid).encode()) if isinstance(grid, Mapping) else (os.fspath(grid), None)
    words = ["sweep", *words_of("sweep", {"jobs": jobs}), name, "--format=json"]
    _, out, _ = _core.run(words, given, _progress(progress))
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


def program() -> str:
    """The path of the program that the package brings."""
    from .__main__ import program as path

    return path()


def capture(argv: Sequence[str], **capture_flags: Any) -> Prediction:
    """What a program of yours takes, run on an emulated card: no GPU is needed.

        capture([sys.executable, "train.py"], gpu="h100-80g", output="run.pkt")
    """
    words = ["capture", *words_of("capture", capture_flags), "--format=json", "--", *argv]
    done = subprocess.run([program(), *words], check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):
        raise Error(done.stderr.strip())
    return Prediction(json.loads(done.stdout))


def __getattr__(name: str) -> Any:
    if name == "plot":  # matplotlib comes in with it
        import importlib

        return importlib.import_module(".plot", __name__)
    raise AttributeError(f"module 'peakcast' has no {name!r}")
