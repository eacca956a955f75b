#!/usr/bin/env python3
"""Timelines of replay and compare hold what they promise; with the package `perfetto`, its trace processor
reads them too.

usage: timeline_test.py PEAKCAST DATA_FOLDER
"""
import json
import os
import subprocess
import sys
import tempfile


def main():
    program, data = sys.argv[1:3]
    fuzz = os.path.join(data, "fuzz_060.csv.zst")
    with tempfile.TemporaryDirectory() as folder:
        for command, processes in ((["replay", fuzz], 1), (["compare", fuzz, "--policy", "pytorch,gmlake", "--pack-steps", "1000"], 2)):
            path = os.path.join(folder, command[0] + ".json")
            done = subprocess.run([program, *command, "--timeline", path, "--format", "json"], check=False, capture_output=True, text=True)
            assert done.returncode in (0, 1), done.stderr
            answer = json.loads(done.stdout)
            events = json.load(open(path, encoding="utf-8"))["traceEvents"]
            assert len({event["pid"] for event in events}) == processes
            counters = [event for event in events if event["ph"] == "C" and event["name"] == "memory"]
            first = answer if command[0] == "replay" else answer["policies"][0]
            peak = first["peak"]["reserved_bytes"] if "peak" in first else first["peak_reserved_bytes"]
            assert max(event["args"]["reserved_bytes"] for event in counters if event["pid"] == 0) == peak
            ooms = [event for event in events if event["ph"] == "i" and event["name"] == "out of memory" and event["pid"] == 0]
            assert len(ooms) == (first["counts"]["ooms"] if "counts" in first else first["ooms"]) > 0
            assert any(event["ph"] == "X" for event in events), "the blocks at the peak"
            try:
                from perfetto.trace_processor import TraceProcessor
                reader = TraceProcessor(trace=path)
            except Exception as missing:  # no package, or no network for its program
                print(f"Perfetto's reader was not asked: {missing}")
                continue
            rows = reader.query("select max(value) as peak from counter join counter_track on counter.track_id = counter_track.id "
                                "where counter_track.name = 'memory.reserved_bytes' or counter_track.name like '%reserved_bytes'")
            read = [row.peak for row in rows]
            print(f"Perfetto reads a reserved peak of {read}")
            assert read and read[0] == max(event["args"]["reserved_bytes"] for event in counters), read
            reader.close()


main()
