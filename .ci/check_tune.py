"""Check the JSON that `make tune` ends with, read from stdin; the run folder is the argument."""

from __future__ import annotations

import json
import sys
from pathlib import Path

record = json.load(sys.stdin)
folder = Path(sys.argv[1])
for name in ("model/model.safetensors", "model.onnx", "report.html", "result.json"):
    assert (folder / name).is_file(), f"{name} was not written"
written = json.loads((folder / "result.json").read_text())
assert written["measured_ratio"] == record["measured_ratio"]
assert (
    0.0 < record["measured_ratio_low"] <= record["measured_ratio"] <= record["measured_ratio_high"]
)
assert record["quality"]["compressed"] >= 0.94, record["quality"]
# A busy machine may spoil a timing, so a miss is reported but is not an error of the change.
verdict = "met" if record["within_budget"] else "MISSED"
print(f"tune: ratio {record['measured_ratio']:.3f}, budget {verdict}")
