#!/usr/bin/env python3
"""Runs every notebook from top to bottom; what each cell prints is what the notebook holds.

usage: notebooks_test.py NOTEBOOKS_FOLDER [--update] [NAME.ipynb...]

Needs the package `peakcast` with matplotlib, nbclient and ipykernel, and a C compiler for the policy.
--update writes the outputs, pictures included, into the notebooks.
"""
import glob
import os
import sys
import time

import nbformat
from nbclient import NotebookClient


def printed(cell):
    """What a reader can compare: text. Pictures depend on matplotlib's version and count only."""
    outputs = cell.get("outputs", [])
    text = "".join(output["text"] for output in outputs if output["output_type"] == "stream" and output["name"] == "stdout")
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    return text, pictures


def main():
    words = [word for word in sys.argv[2:] if word != "--update"]
    folder = os.path.abspath(sys.argv[1])
    paths = [os.path.join(folder, word) for word in words] or sorted(glob.glob(os.path.join(folder, "*.ipynb")))
    failures = []
    for path in paths:
        kept = nbformat.read(path, as_version=4)
        fresh = nbformat.read(path, as_version=4)
        began = time.monotonic()
        NotebookClient(fresh, timeout=300, resources={"metadata": {"path": folder}}, record_timing=False, coalesce_streams=True).execute()
        pictures = 0
        for number, (before, after) in enumerate(zip(kept.cells, fresh.cells)):
            for output in after.get("outputs", []):
                if output["output_type"] == "stream" and output["name"] == "stderr":
                    failures.append(f"{path}, cell {number} warns: {output['text']}")
            pictures += printed(after)[1]
            if printed(before) != printed(after):
                failures.append(f"{path}, cell {number} holds\n{printed(before)}\nand prints\n{printed(after)}")
        print(f"{os.path.basename(path)}: {len(fresh.cells)} cells, {pictures} pictures, {time.monotonic() - began:.1f} s")
        if "--update" in sys.argv:
            fresh.metadata = kept.metadata  # not this machine's Python
            nbformat.write(fresh, path)
    if failures and "--update" not in sys.argv:
        sys.exit("\n".join(failures))


main()
