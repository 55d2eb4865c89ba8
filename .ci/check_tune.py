"""Check the JSON that `make tune` ends with, read from stdin; the run folder is the argument.

A budget that was missed is measured once more with `autotune bench`, because another program may
have slowed down the first measurement. The check fails when both intervals lie above the budget.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

QUALITY_FLOOR = 0.94
FILES = ("model/model.safetensors", "model.onnx", "report.html", "result.json")


def main() -> None:
    """Files, figures and the verdict."""
    record: dict[str, Any] = json.load(sys.stdin)
    folder = Path(sys.argv[1])
    for name in FILES:
        require((folder / name).is_file(), f"{name} was not written")
    written = json.loads((folder / "result.json").read_text())
    ratio = record["measured_ratio"]
    low, high = record["measured_ratio_low"], record["measured_ratio_high"]
    require(written["measured_ratio"] == ratio, "result.json and stdout give different ratios")
    require(0.0 < low <= ratio <= high, f"the ratio {ratio} lies outside {low} to {high}")
    require(record["quality"]["compressed"] >= QUALITY_FLOOR, f"quality: {record['quality']}")
    print(f"tune: ratio {ratio:.3f} ({low:.3f} to {high:.3f}), {words(record['within_budget'])}")
    if record["within_budget"] is False:
        again = bench(folder)
        print(f"bench: ratio {again['ratio']:.3f}, {words(again['within_budget'])}")
        missed = again["ratio_low"] > again["budget_ratio"]
        require(not missed, f"the budget of {again['budget_ratio']:.3f} was missed twice")


def words(within: bool | None) -> str:
    """Say in words what the verdict of the result is."""
    return {True: "budget met", False: "budget MISSED", None: "budget undecided"}[within]


def bench(folder: Path) -> dict[str, Any]:
    """The result of `autotune bench` on the folder."""
    autotune = Path(sys.executable).with_name("autotune")
    done = subprocess.run(
        [str(autotune), "bench", str(folder), "--format", "json"], capture_output=True, text=True
    )
    require(bool(done.stdout.strip()), f"bench failed: {done.stderr}")
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def require(holds: bool, reason: str) -> None:
    """Exit with the reason where the condition does not hold."""
    if not holds:
        sys.exit(f"check_tune: {reason}")


if __name__ == "__main__":
    main()
