#!/usr/bin/env python3
"""What `predict` says of its own error: each recorded training run, predicted from its description alone.

usage: evidence.py PEAKCAST GROUNDTRUTH           writes the table, as CSV, to stdout
       evidence.py PEAKCAST GROUNDTRUTH --check   exits 1 where sim/app/evidence/recordings.csv says something else

The table is embedded in the program. A recording of GROUNDTRUTH that is not in the table fails the check; a row
whose recording is not in GROUNDTRUTH is not checked there.
"""
import csv
import json
import pathlib
import sys

import predict_accuracy

TABLE = pathlib.Path(__file__).resolve().parents[2] / "sim/app/evidence/recordings.csv"
COLUMNS = ["recording", "family", "precision", "parallel", "gpu", "policy", "reserved_bytes", "allocated_error_bytes",
           "reserved_error_bytes"]


def row_of(program, path):
    """None for what is no training run, or ran out of memory."""
    recorded = json.loads(path.read_text())
    if "scenario" not in recorded or recorded.get("oom"):
        return None
    flags = predict_accuracy.flags_of(recorded["scenario"], recorded["per_iter"])
    flags += ["--limit", str(recorded["allowed_bytes"])] if recorded.get("allowed_bytes") else []
    out, fault = predict_accuracy.run(program, "predict", *flags, "--format", "json")
    if out is None:
        sys.exit(f"{path}: {fault}")
    predicted, final = json.loads(out), recorded["final"]
    if predicted["oom"]:
        return None
    inputs = predicted["inputs"]
    error = {k: predicted["peak"][f"{k}_bytes"] - final[f"{k}_bytes.all.peak"] for k in ("allocated", "reserved")}
    return {"recording": path.stem, "family": predicted["model"]["family"], "precision": inputs["precision"],
            "parallel": inputs["parallel"], "gpu": inputs["gpu"], "policy": inputs["policy"],
            "reserved_bytes": str(final["reserved_bytes.all.peak"]),
            "allocated_error_bytes": str(error["allocated"]), "reserved_error_bytes": str(error["reserved"])}


def main():
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["--check"]):
        sys.exit(__doc__)
    program, root = sys.argv[1], pathlib.Path(sys.argv[2])
    paths = [p for at in ("traces/", "attributed/", "") for p in sorted(root.glob(f"{at}*.json"))]
    rows = [row for row in (row_of(program, path) for path in paths) if row]
    if sys.argv[3:]:
        with TABLE.open() as file:
            known = {row["recording"]: row for row in csv.DictReader(file)}
        wrong = [row for row in rows if known.get(row["recording"]) != row]
        for row in wrong:
            print(f"{TABLE.name} says {known.get(row['recording'])}, now {row}")
        print(f"{len(rows)} recordings checked, {len(wrong)} differ")
        sys.exit(1 if wrong or not rows else 0)
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


main()
