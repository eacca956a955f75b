"""Keyword arguments as the words of a command line: the same names, with '_' for '-'."""
import json
import os
from functools import lru_cache
from typing import Any, Dict, List, Mapping

from . import _program


@lru_cache(maxsize=None)
def flags_of(command: str) -> Dict[str, Dict[str, Any]]:
    """The flag table of a command ("predict", "trace info"), by flag name without the dashes."""
    _, text, _ = _program.run([*command.split(), "--help", "--format", "json"])
    return {flag["name"]: flag for flag in json.loads(text)["flags"]}


def words_of(command: str, arguments: Mapping[str, Any]) -> List[str]:
    """The words that `arguments` stand for.

    None leaves a flag out. True sets a flag; for one that takes on or off, booleans say which.
    A mapping gives KEY=VALUE words (`set={"num_hidden_layers": 2}`); a list repeats a flag that may
    be repeated, and is joined by commas otherwise (`policy=["pytorch", "gmlake"]`); a pair of numbers
    is a shape (`batches=[(16, 512), (64, 128)]`). An argument that is no flag is refused by the
    program itself, which names the nearest one.
    """
    table = flags_of(command)
    words: List[str] = []
    for name, value in arguments.items():
        flag = name.rstrip("_").replace("_", "-")
        row = table.get(flag, {"value": "VALUE", "repeatable": False})
        if value is None:
            continue
        if isinstance(value, bool):
            if row["value"] == "on|off":
                words.append(f"--{flag}={'on' if value else 'off'}")
            elif row["value"] == "":
                words.extend([f"--{flag}"] if value else [])
            else:
                words.append(f"--{flag}={value}")
        elif isinstance(value, Mapping):
            words.extend(f"--{flag}={key}={_word(item)}" for key, item in value.items())
        elif isinstance(value, (list, tuple)):
            items = [_word(item) for item in value]
            words.extend([f"--{flag}={item}" for item in items] if row["repeatable"] else [f"--{flag}={','.join(items)}"])
        else:
            word = _word(value)
            words.extend([f"--{flag}={word}"] if word else [f"--{flag}", ""])
    return words


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):  # a shape, as in batches=[(16, 512), (64, 128)]
        return "x".join(str(part) for part in value)
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
