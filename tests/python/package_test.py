#!/usr/bin/env python3
"""The installed Python package answers what the program answers.

usage: package_test.py DATA_FOLDER, with `peakcast` installed
"""
import json
import os
import pickle
import subprocess
import sys
import time

import peakcast

DATA = sys.argv[1]
RUN = dict(batch=4, seq=64, precision="bf16-amp")


def program(*words):
    done = subprocess.run([peakcast.program(), *words, "--format", "json"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def test_predict():
    run = peakcast.predict("bert-tiny", **RUN)
    assert run.to_dict() == program("predict", "--model", "bert-tiny", "--batch", "4", "--seq", "64", "--precision", "bf16-amp")
    assert run.fits and run.peak.reserved_bytes > run.peak.allocated_bytes > 0
    assert "FITS" in str(run) and "reserved_bytes" in dir(run.peak)
    assert not peakcast.predict("bert-tiny", limit="100MiB", **RUN).fits


def test_wrong_words():
    for wrong, near in ((dict(bacth=4), "--batch"), (dict(precision="bf17"), "bf16"), (dict(model="bert-tny"), "bert-tiny")):
        try:
            peakcast.predict(**{"model": "bert-tiny", **wrong})
        except peakcast.Error as error:
            assert near in str(error), error
        else:
            raise AssertionError(wrong)


def test_traces():
    fuzz = os.path.join(DATA, "fuzz_060.csv.zst")
    replayed = peakcast.replay(fuzz, addresses="modelled")
    assert replayed.to_dict() == program("replay", fuzz, "--addresses", "modelled")
    with open(fuzz, "rb") as file:
        given = peakcast.replay(file.read(), limit="1GiB", capacity="79GiB")  # without the settings beside the file
    assert given.counts.allocs > 100 and given.inputs.trace == "-", given
    compared = peakcast.compare(fuzz, policy=["pytorch", "gmlake"], pack_steps=1000)
    assert [row.policy for row in compared.policies] == ["pytorch", "gmlake"]
    snapshot = {"segments": [], "device_traces": [[
        {"action": "segment_alloc", "addr": 1 << 46, "size": 2 << 20, "stream": 0},
        {"action": "alloc", "addr": 1 << 46, "size": 512, "stream": 0}]]}
    assert peakcast.replay(snapshot).peak.requested_bytes == 512
    assert peakcast.replay(pickle.dumps(snapshot, protocol=4)).peak.requested_bytes == 512


def test_searches():
    found = peakcast.fit("bert-tiny", vary="batch", max=8, limit="1GiB")
    assert found.largest_fit == 3, found
    rows = peakcast.sweep({"run": {"model": "bert-tiny", "seq": 64}, "grid": {"batch": [1, 2], "gpu": ["a100-40g", "h100-80g"]}})
    assert [(row["batch"], row["gpu"]) for row in rows] == [(1, "a100-40g"), (1, "h100-80g"), (2, "a100-40g"), (2, "h100-80g")]
    assert rows[0]["peak_reserved_bytes"] == peakcast.predict("bert-tiny", seq=64, batch=1, gpu="a100-40g").peak.reserved_bytes


def test_it_costs_little():
    def best(function):
        times = []
        for _ in range(7):
            began = time.perf_counter()
            function()
            times.append(time.perf_counter() - began)
        return min(times)

    from peakcast import _core
    words = ["predict", "--model=bert-base", "--batch=8", "--seq=128", "--format=json"]
    work = best(lambda: _core.run(words))
    whole = best(lambda: peakcast.predict("bert-base", batch=8, seq=128))
    print(f"predict: {1000 * whole:.2f} ms, of which the program's own work {1000 * work:.2f} ms")
    assert whole - work < 0.002, (whole, work)


def test_it_loads_little():
    assert "torch" not in sys.modules and "matplotlib" not in sys.modules and "pandas" not in sys.modules


test_it_loads_little()
for name, function in list(globals().items()):
    if name.startswith("test_"):
        function()
        print(f"{name}: passed")
