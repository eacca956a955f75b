from collections.abc import Callable
from typing import Optional

__version__: str

class NeedsProcess(RuntimeError):
    """What was asked runs code of others, and so needs a process of its own."""

def run(
    words: list[str],
    input: Optional[bytes] = None,
    progress: Optional[Callable[[str, int, int], None]] = None,
) -> tuple[int, str, str, Optional[str]]: ...
