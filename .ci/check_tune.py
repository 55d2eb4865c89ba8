"""Check what `make tune` left in the folder that is the argument.

It asks for the least latency that keeps a quality floor, so it succeeds on any processor: where
nothing is gained, it hands out the dense model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

QUALITY_FLOOR = 0.99
FILES = ("model/model.safetensors", "model.onnx", "report.html", "result.json")


def main() -> None:
    """Files, figures and the verdict."""
    folder = Path(sys.argv[1])
    for name in FILES:
        require((folder / name).is_file(), f"{name} was not written")
    record: dict[str, Any] = json.loads((folder / "result.json").read_text())
    ratio = record["measured_ratio"]
    low, high = record["measured_ratio_low"], record["measured_ratio_high"]
    require(0.0 < low <= ratio <= high, f"the ratio {ratio} lies outside {low} to {high}")
    quality = record["quality"]["compressed"]
    require(quality >= QUALITY_FLOOR, f"{quality} is below the floor of {QUALITY_FLOOR}")
    require(record["within_budget"] is True, "the result is not surely as fast as the dense model")
    require(bool(record["compared"]), "no uniform alternative was compared")
    compared = ", ".join(
        f"{one['name']} {one['ratio']:.3f} at {one['quality']:.4f}" for one in record["compared"]
    )
    print(
        f"tune: {record['backend']}, ratio {ratio:.3f} ({low:.3f} to {high:.3f}), quality "
        f"{quality:.4f}; compared: {compared}"
    )


def require(holds: bool, reason: str) -> None:
    """Exit with the reason where the condition does not hold."""
    if not holds:
        sys.exit(f"check_tune: {reason}")


if __name__ == "__main__":
    main()
