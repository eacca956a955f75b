#!/usr/bin/env python3
"""Writes the package's type stub: the functions of __init__.py, with a command's flags as keyword arguments.

usage: make_stub.py PEAKCAST OUT.pyi

Only type checkers and editors read it. The flags come from `peakcast COMMAND --help --format json`.
"""
import ast
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def type_of(flag):
    value = flag["value"]
    if value == "":
        return "bool"
    if value == "on|off":
        return "bool"
    if "|" in value and value.replace("|", "").replace("-", "").replace("_", "").isalnum() and value.islower():
        return "Literal[" + ", ".join(f'"{word}"' for word in value.split("|")) + "]"
    kinds = {"N": "int", "SIZE": "Union[int, str]"}
    if flag["repeatable"]:
        return "Union[_Word, Sequence[Any], Mapping[str, _Word]]"
    return kinds.get(value, "Union[_Word, Sequence[Any]]")


def flags_of(program, command, taken):
    text = subprocess.run([program, command, "--help", "--format", "json"], check=True, capture_output=True, text=True).stdout
    lines = []
    for flag in json.loads(text)["flags"]:
        name = flag["name"].replace("-", "_")
        if name in taken or name in ("format", "quiet", "verbose"):
            continue
        lines.append(f"    {name}: Optional[{type_of(flag)}] = None,")
    return lines


def function(node, program):
    arguments = node.args
    lines = []
    given = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(given) - len(arguments.defaults)) + arguments.defaults
    for argument, default in zip(given, defaults):
        lines.append(f"    {ast.unparse(argument)}{' = ...' if default is not None else ''},")
    if arguments.kwonlyargs or arguments.kwarg:
        lines.append("    *,")
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        lines.append(f"    {ast.unparse(argument)}{' = ...' if default is not None else ''},")
    if arguments.kwarg:
        taken = {argument.arg for argument in [*given, *arguments.kwonlyargs]}
        lines += flags_of(program, node.name, taken)
    doc = ast.get_docstring(node) or ""
    body = [f'    """{line}' if number == 0 else f"    {line}".rstrip() for number, line in enumerate(doc.splitlines())]
    body[-1] += '"""'
    return "\n".join([f"def {node.name}(", *lines, f") -> {ast.unparse(node.returns)}:", *body, "    ..."])


def main():
    program, out = sys.argv[1:3]
    with open(os.path.join(HERE, "peakcast", "__init__.py"), encoding="utf-8") as file:
        module = ast.parse(file.read())
    parts = ["from typing import Literal\n\n_Word = Union[str, int, float, \"os.PathLike[str]\"]\n"]
    imports = []
    for node in module.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports.append(ast.unparse(node))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            parts.append(ast.unparse(node))
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            parts.append(function(node, program))
    imports.append("from . import plot as plot")
    with open(out, "w", encoding="utf-8") as file:
        file.write("# Made by make_stub.py from __init__.py and the program's flag tables.\n")
        file.write("\n".join(imports) + "\n" + "\n\n".join(parts) + "\n")


main()
