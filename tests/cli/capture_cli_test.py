#!/usr/bin/env python3
"""`peakcast capture` as its users run it: with PyTorch where a Python has it (PEAKCAST_TORCH_PYTHON), without otherwise.

    capture_cli_test.py PEAKCAST [--update]

PyTorch needs none of NVIDIA's wheels here. Six small models, of as many kinds, must take what the
goldens say: peaks and counts, byte for byte. Exits 77 (skipped) without PyTorch, after what needs none.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = f"{HERE}/../support/capture_models.py"
GOLDENS = f"{HERE}/../data/captures.json"
PEAKCAST = os.path.abspath(sys.argv[1])
failures = []


def check(what, holds, detail=""):
    if not holds:
        failures.append(f"{what}: {detail}")


def capture(*words, flags=(), **options):
    return subprocess.run([PEAKCAST, "capture", *flags, "--", *words], capture_output=True, text=True, timeout=240, **options)


def without_torch():
    done = subprocess.run([PEAKCAST, "capture", "--gpu", "h100-80g"], capture_output=True, text=True)
    check("no program is bad usage", done.returncode == 2 and "no program" in done.stderr, done.stderr)
    done = capture("true", flags=["--gpu", "h100-80"])
    check("an unknown card is bad usage", done.returncode == 2 and "h100-80g" in done.stderr, done.stderr)
    done = capture("true", flags=["--assume", "nonzero@model.py=0.3"])
    check("a line that is none is bad usage", done.returncode == 2 and "'model.py' is no FILE:LINE" in done.stderr, done.stderr)
    done = capture("/no/such/program")
    check("a program that is not there is named", done.returncode == 2 and "/no/such/program" in done.stderr, done.stderr)
    done = capture("sh", "-c", "echo out; exit 5")
    check("a program that uses no card is named, with its status", done.returncode == 2 and "status 5" in done.stderr, done.stderr)
    check("its output passes through", done.stdout == "out\n", done.stdout)
    with tempfile.TemporaryDirectory() as scratch:
        done = capture("sh", "-c", "touch started", flags=["-o", f"{scratch}/run.what"], cwd=scratch)
        check("a format that is not known is refused before the program runs", done.returncode == 2 and not os.listdir(scratch), done.stderr)
    done = subprocess.run([PEAKCAST, "fit", "--vary", "batch", "--", "python", "train.py"], capture_output=True, text=True)
    check("fit needs {}", done.returncode == 2 and "{}" in done.stderr, done.stderr)


def figures(report):
    return {key: report[key] for key in ("verdict", "peak", "counts", "framework", "stubs")} | {"iterations": len(report["iterations"])}


def golden_models(python, update):
    found = {}
    names = subprocess.run([python, MODELS, "--list"], capture_output=True, text=True).stdout.split()
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            trace = f"{scratch}/run.pkt"
            done = capture(python, MODELS, name, flags=["--format", "json", "-o", trace])
            check(f"{name} fits", done.returncode == 0, done.stderr[-800:])
            if done.returncode:
                continue
            report = json.loads(done.stdout)
            found[name] = figures(report)
            check(f"{name}: the replay did what PyTorch did", report["replayed"]["events"] == report["replayed"]["matched"], report["replayed"])
            parts = sum(report["peak_breakdown"].values())
            check(f"{name}: the parts add up", parts == report["peak"]["allocated_bytes"], parts)
            check(f"{name}: the parameters are known", report["peak_breakdown"]["parameters_bytes"] > 0, report["peak_breakdown"])
            again = subprocess.run([PEAKCAST, "replay", trace, "--verify", "--format", "json"], capture_output=True, text=True)
            check(f"{name}: the trace replays, verified", again.returncode == 0, again.stdout[-400:] + again.stderr)
    if update:
        with open(GOLDENS, "w") as file:
            json.dump(found, file, indent=1, sort_keys=True)
            file.write("\n")
        return
    goldens = json.load(open(GOLDENS))
    for name, was in goldens.items():
        now = found.get(name)
        if now and now["framework"] != was["framework"]:
            continue  # another release's figures are its own
        check(f"{name} is as the golden says", now == was, f"{now} instead of {was}")


def out_of_memory(python):
    name = "mlp"
    done = capture(python, MODELS, name, flags=["--limit", "40MiB", "--format", "json"])
    check("a limit ends in PyTorch's own exception", done.returncode == 1 and "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate" in done.stderr, done.stderr[-800:])
    report = json.loads(done.stdout)
    check("and in a verdict with the line", report["verdict"] == "out_of_memory" and "capture_models.py:" in report["oom"]["line"], report["oom"])
    done = capture(python, "-c", "import torch; torch.zeros(4).cuda(); raise SystemExit(7)")
    check("a program's own failure is named", done.returncode == 2 and "status 7" in done.stderr, done.stderr)


def default_device(python):
    """What a default device places is on the card, and what capture computes beside it is not."""
    program = ("import torch\n"
               "with torch.device('cuda'):\n"
               "    made = [torch.nn.LayerNorm(8).weight, torch.ones(8), torch.arange(8), torch.zeros(8, dtype=torch.int64)]\n"
               "torch.set_default_device('cuda')\n"
               "made += [torch.full((8,), 2), torch.eye(4, dtype=torch.int64), torch.tensor([1, 2])]\n"
               "print(all(t.is_cuda for t in made), torch.cuda.memory_stats()['allocation.all.allocated'], int(made[4].sum()))")
    done = capture(python, "-c", program)
    # Each of them, and LayerNorm's bias.
    check("a default device places what it places without capture, and nothing else", done.stdout.split()[:3] == ["True", "8", "16"],
          done.stdout[:100] + done.stderr[-800:])


def given_values(python):
    with tempfile.TemporaryDirectory() as scratch:
        with open(f"{scratch}/model.py", "w") as file:
            file.write("import torch\n"
                       "x = torch.randn(1000, device='cuda', requires_grad=True)\n"
                       "y = x[x > 0.5]\n"
                       "y.sum().backward()\n"
                       "print(y.numel(), bool((x > 0).all()))\n")
        flags = ["--format", "json", "--assume", "nonzero@model.py:3=0.3", "--assume", "all@model.py:5=false", "--assume", "unique@model.py:3=0.5"]
        done = capture(python, f"{scratch}/model.py", flags=flags, cwd=scratch)
        check("--assume is the answer at its line", done.returncode == 0 and "300 False" in done.stderr, done.stderr[-800:])
        check("one that nothing asked is named", "unique@model.py:3=0.5: nothing was asked there" in done.stderr, done.stderr[-800:])
        said = [(one["question"], one["answer"]) for one in json.loads(done.stdout)["assumed"]] if done.returncode == 0 else []
        check("and the report says so", ("nonzero", "300 of 1000, as --assume says") in said and ("all", "false, as --assume says") in said, said)


def interrupted(python):
    with tempfile.TemporaryDirectory() as scratch:
        program = "import torch, time; torch.zeros(4).cuda(); open('started', 'w'); time.sleep(200)"
        process = subprocess.Popen([PEAKCAST, "capture", "-o", f"{scratch}/run.pkt", "--", python, "-c", program], cwd=scratch,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": scratch})
        for _ in range(1000):
            if os.path.exists(f"{scratch}/started"):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=100)
        left = sorted(os.listdir(scratch))
        check("interrupted, it writes nothing and leaves nothing", left == ["started"] and "interrupted" in stderr and process.returncode not in (0, 1), (left, stderr))


def memory(python):
    """70 billion parameters on the card take next to nothing of the host."""
    program = ("import torch, resource; w = [torch.empty(8192, 8192 * 4, dtype=torch.bfloat16, device='cuda') for _ in range(260)]; "
               "[x.normal_() for x in w]; print(sum(x.numel() for x in w), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")
    done = capture(python, "-c", program, flags=["--gpu", "h200-141g"])
    check("70 billion parameters fit", done.returncode == 0, done.stderr[-500:])
    if done.returncode == 0:
        parameters, resident = map(int, done.stdout.split()[:2])
        check("in less than 2 GiB of the host's memory", parameters > 69e9 and resident < 2 << 20, done.stdout[:100])


def main():
    without_torch()
    python = os.environ.get("PEAKCAST_TORCH_PYTHON", "")
    if python:
        golden_models(python, "--update" in sys.argv)
        out_of_memory(python)
        default_device(python)
        given_values(python)
        interrupted(python)
        memory(python)
    for failure in failures:
        print("FAILED", failure)
    if failures:
        return 1
    print("passed" if python else "no PyTorch (PEAKCAST_TORCH_PYTHON): the rest is skipped")
    return 0 if python else 77


if __name__ == "__main__":
    sys.exit(main())
