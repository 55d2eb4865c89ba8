"""Where things live unless the user says otherwise."""

from __future__ import annotations

import os
from pathlib import Path


def default_database() -> Path:
    """`$AUTOTUNE_DB`, else `latency.sqlite` in the user's data folder."""
    if os.environ.get("AUTOTUNE_DB"):
        return Path(os.environ["AUTOTUNE_DB"])
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "autotune" / "latency.sqlite"


def default_output(model: str | None) -> Path:
    """`autotune-out/<last part of the model's name>`."""
    name = "all-MiniLM-L6-v2" if model is None else Path(model).name
    return Path("autotune-out") / (name or "model")
