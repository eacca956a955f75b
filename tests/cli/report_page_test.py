#!/usr/bin/env python3
"""Opens report pages in a headless browser: no error on its console, and the figures that the page draws
are those of the JSON.

usage: report_page_test.py PEAKCAST DATA_FOLDER

Needs chromium; without one the test says so and is skipped (status 77).
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time


def opened(browser, page, folder):
    """What the page says of itself once it is drawn: its body's data attributes; and the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr", "--log-level=0",
         f"--user-data-dir={folder}/profile", "--virtual-time-budget=20000", "--dump-dom", f"file://{page}"],
        check=True, capture_output=True, text=True, timeout=240)
    took = time.monotonic() - began
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not errors, f"{page}: {errors}"
    body = re.search(r"<body([^>]*)>", done.stdout).group(1)
    return dict(re.findall(r'data-([a-z-]+)="([^"]*)"', body)), done.stdout, took


def main():
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        print("there is no chromium")
        sys.exit(77)
    program, data = sys.argv[1:3]
    run = ["--model", "bert-tiny", "--batch", "4", "--seq", "64", "--precision", "bf16-amp"]
    fuzz = os.path.join(data, "fuzz_060.csv.zst")
    stacks = os.path.join(data, "bert_base_b4_s64_stacks.pickle.zst")
    commands = [
        ["predict", *run],
        ["predict", *run, "--limit", "200MiB"],
        ["fit", *run, "--vary", "batch", "--max", "64", "--limit", "600MiB"],
        ["replay", fuzz],
        ["replay", stacks, "--policy", "gmlake"],
        ["compare", fuzz, "--policy", "pytorch,gmlake,cuda-malloc-async", "--pack-steps", "1000"],
        ["explain", stacks],
    ]
    with tempfile.TemporaryDirectory() as folder:
        for number, command in enumerate(commands):
            page = os.path.join(folder, f"page{number}.html")
            done = subprocess.run([program, *command, "--report", page, "--format", "json"], check=False, capture_output=True, text=True)
            assert done.returncode in (0, 1), done.stderr
            answer = json.loads(done.stdout)
            text = open(page, encoding="utf-8").read()
            assert "http://" not in text and "https://" not in text, "the page needs nothing but itself"
            os.remove(page)
            subprocess.run([program, *command, "--report", page, "--format", "json"], check=False, capture_output=True)
            assert text == open(page, encoding="utf-8").read(), "equal inputs, other bytes"
            shown, dom, took = opened(browser, page, folder)
            print(" ".join(command), shown, f"{len(text)} bytes, {took:.1f} s")
            assert shown.get("ready") == "yes", shown
            assert int(shown["drawn-entries"]) > 0
            if command[0] in ("predict", "replay"):
                # The books as the policy has them, and the blocks as the page adds them up.
                assert shown["json-reserved-bytes"] == str(answer["peak"]["reserved_bytes"]) == shown["drawn-reserved-bytes"], shown
                assert shown["json-allocated-bytes"] == str(answer["peak"]["allocated_bytes"]) == shown["drawn-allocated-bytes"], shown
                assert shown["drawn-live-bytes"] == shown["drawn-allocated-bytes"], shown
            if command[0] == "compare":
                first = answer["policies"][0]
                assert shown["drawn-reserved-bytes"] == str(first["peak_reserved_bytes"]), shown
                assert all(policy["policy"] in dom for policy in answer["policies"])
            if command[0] == "fit":
                assert f"{answer['largest_fit']}" in dom and shown["runs"] == "2", shown


main()
