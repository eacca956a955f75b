#!/usr/bin/env python3
"""Completion, the manual page and the page on cards name what there is.

usage: installed_texts_test.py PEAKCAST SOURCE
"""
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

PROGRAM, SOURCE = sys.argv[1:3]


def told(*words):
    return subprocess.run([PROGRAM, *words], check=True, capture_output=True, text=True).stdout


def flags(*command):
    return [flag["name"] for flag in json.loads(told(*command, "--help", "--format", "json"))["flags"]]


def completed(script, *words):
    asks = f"source {script}; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _peakcast; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    path = os.path.dirname(os.path.abspath(PROGRAM)) + os.pathsep + os.environ["PATH"]
    done = subprocess.run(["bash", "-c", asks, "bash", "peakcast", *words], capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert not done.stderr, done.stderr
    return done.stdout.split()


def check_bash(folder):
    script = os.path.join(folder, "peakcast.bash")
    with open(script, "w", encoding="utf-8") as file:
        file.write(told("completion", "bash"))
    assert completed(script, "pred") == ["predict"]
    assert completed(script, "trace", "va") == ["validate"]
    assert completed(script, "predict", "--prec") == ["--precision"]
    assert completed(script, "predict", "--attention", "") == ["sdpa", "eager"]
    assert completed(script, "predict", "--gpu", "a100-8") == ["a100-80g"]
    assert set(completed(script, "replay", "--")) == {"--" + name for name in flags("replay")} | {"--help"}


def check_zsh(folder):
    script = os.path.join(folder, "_peakcast")
    text = told("completion", "zsh")
    with open(script, "w", encoding="utf-8") as file:
        file.write(text)
    assert all(f"--{name}" in text for name in flags("predict"))
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n", script], check=True)


def check_manual(folder):
    text = told("completion", "man")
    for command in (["predict"], ["sweep"], ["trace", "info"]):
        for name in flags(*command):
            assert "\\fB\\-\\-" + name.replace("-", "\\-") in text, name
    assert not [line for line in text.splitlines() if line.startswith("'")]
    if shutil.which("groff"):
        path = os.path.join(folder, "peakcast.1")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", path], check=True, capture_output=True, text=True)
        assert not done.stderr, done.stderr


def check_wrong_kind():
    done = subprocess.run([PROGRAM, "completion", "zhs"], capture_output=True, text=True)
    assert done.returncode == 2 and "'zsh'" in done.stderr, done.stderr


def keys_of(value):
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            if key not in ("measured", "outside", "schema_version"):  # the first decides nothing
                yield from keys_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item)


def check_cards():
    with open(f"{SOURCE}/sim/device/GPUS.md", encoding="utf-8") as file:
        page = file.read()
    for path in glob.glob(f"{SOURCE}/sim/device/gpus/*.json"):
        with open(path, encoding="utf-8") as file:
            for key in keys_of(json.load(file)):
                assert f"`{key}`" in page, (path, key)


with tempfile.TemporaryDirectory() as scratch:
    check_bash(scratch)
    check_zsh(scratch)
    check_manual(scratch)
check_wrong_kind()
check_cards()
