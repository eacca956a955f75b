"""One command line, run by the module in this process, or by the program where it needs one of its own."""
import os
import subprocess
import sys
from typing import Callable, List, Optional, Tuple

from . import _core
from .__main__ import program

Progress = Optional[Callable[[str, int, int], None]]


class Error(ValueError):
    """Flags or an input are wrong; the message names the place and the nearest valid word."""


def attempt(words: List[str], given: Optional[bytes] = None, progress: Progress = None) -> Tuple[int, str, str, Optional[str]]:
    """Exit status, stdout, stderr, and what is wrong with the input or None."""
    try:
        return _core.run(words, given, progress)
    except _core.NeedsProcess:
        return _start(words, given)


def run(words: List[str], given: Optional[bytes] = None, progress: Progress = None) -> Tuple[int, str, str]:
    """Exit status, stdout, stderr. What is wrong with the input is an Error."""
    status, out, notes, fault = attempt(words, given, progress)
    if fault is not None:
        raise Error(fault)
    return status, out, notes


def _start(words: List[str], given: Optional[bytes]) -> Tuple[int, str, str, Optional[str]]:
    # "python3" is this Python, unless a flag says otherwise.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    done = subprocess.run([program(), *words], input=given, check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, "PATH": path})
    notes = done.stderr.decode(errors="replace")
    if done.returncode in (0, 1):
        return done.returncode, done.stdout.decode(), notes, None
    mark = "peakcast: error: "
    return done.returncode, "", "", notes.strip().replace(mark, "") or f"peakcast ended with status {done.returncode}"
