from collections.abc import Callable
from typing import Optional

__version__: str

class Error(ValueError):
    """Flags or an input are wrong; the message names the place and the nearest valid word."""

def run(
    words: list[str],
    input: Optional[bytes] = None,
    progress: Optional[Callable[[str, int, int], None]] = None,
) -> tuple[int, str, str]: ...
