#!/usr/bin/env python3
"""The installed Python package answers what the program answers.

usage: package_test.py DATA_FOLDER, with `peakcast` installed
"""
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings

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


def test_a_point_without_an_answer():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        rows = peakcast.sweep({"run": {"model": "bert-tiny", "seq": 64}, "grid": {"set": ["num_hidden_layers=1", "no_such_field=1"]}})
    assert [row["verdict"] for row in rows] == ["fits", "error"] and "no_such_field" in rows[1]["error"], rows
    assert len(told) == 1 and "1 of 2" in str(told[0].message), told


def test_the_interpreter_runs_on():
    counted, over = [0], threading.Event()

    def count():
        while not over.wait(0.001):
            counted[0] += 1

    told = []
    other = threading.Thread(target=count)
    other.start()
    began = time.perf_counter()
    spent = time.process_time()
    rows = peakcast.sweep({"run": {"model": "bert-base", "seq": 128}, "grid": {"batch": list(range(1, 201))}},
                          progress=lambda label, done, total: told.append((done, total)))
    wall, spent = time.perf_counter() - began, time.process_time() - spent
    over.set()
    other.join()
    print(f"sweep of 200 points: {wall:.2f} s, {spent / wall:.2f} cores of {os.cpu_count()}; another thread ran {counted[0]} times")
    assert len(rows) == 200 and told == [(done, 200) for done in range(1, 201)], told
    assert counted[0] > 10 * wall, counted


def test_programs():
    for argv in (["true"], ["/no/such/program"]):
        try:
            peakcast.capture(argv, gpu="h100-80g")
        except peakcast.Error as error:
            assert argv[0] in str(error), error
        else:
            raise AssertionError(argv)
    torch = os.environ.get("PEAKCAST_TORCH_PYTHON")
    if torch is None:
        print("no PEAKCAST_TORCH_PYTHON: capture was not asked for a training")
        return
    models = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support", "capture_models.py")
    name = subprocess.run([torch, models, "--list"], capture_output=True, text=True, check=True).stdout.split()[0]
    run = peakcast.capture([torch, models, name])
    golden = json.load(open(os.path.join(DATA, "captures.json"), encoding="utf-8"))[name]
    assert run.peak.to_dict() == golden["peak"] and run.engine == "captured", run
    assert str(run).startswith("FITS: "), str(run)


def test_explain():
    found = peakcast.explain(os.path.join(DATA, "bert_base_b4_s64_stacks.pickle.zst"))
    assert sum(cause.bytes for cause in found.causes) == found.peak.unused_bytes > 0, found


def test_an_allocator_is_a_file_of_a_build_with_cuda():
    try:
        peakcast.use_allocator("gmlake", library="/no/such/library.so")
    except peakcast.Error as error:
        assert "/no/such/library.so" in str(error) and "CUDA" in str(error), error
    else:
        raise AssertionError("there is no such file")


def test_editors_know_the_flags():
    with open(os.path.join(os.path.dirname(peakcast.__file__), "__init__.pyi"), encoding="utf-8") as file:
        stub = file.read()
    for flag in peakcast.flags("predict"):
        assert flag in ("model", "format", "quiet", "verbose") or f"    {flag.replace('-', '_')}: " in stub, flag


def test_it_costs_little():
    """What predict() does besides the program's own work, which a stand-in answers at once here."""
    from peakcast import _core
    asked = dict(batch=8, seq=128)
    whole = peakcast.predict("bert-base", **asked)
    answer = _core.run(["predict", "--model=bert-base", "--batch=8", "--seq=128", "--format=json"])
    program, _core.run = _core.run, lambda *_: answer
    try:
        times = []
        for _ in range(9):
            began = time.perf_counter()
            run = peakcast.predict("bert-base", **asked)
            times.append(time.perf_counter() - began)
    finally:
        _core.run = program
    assert run == whole
    print(f"predict: {1000 * min(times):.2f} ms besides the program's own work")
    assert min(times) < 0.002, times


def test_it_loads_little():
    assert "torch" not in sys.modules and "matplotlib" not in sys.modules and "pandas" not in sys.modules


test_it_loads_little()
for name, function in list(globals().items()):
    if name.startswith("test_"):
        function()
        print(f"{name}: passed")
