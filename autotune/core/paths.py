"""Defaults that the environment may change."""

from __future__ import annotations

import os
from pathlib import Path

from autotune.core.errors import UsageError
from autotune.core.types import Address


def database_address(text: str) -> Address:
    """A URL as it is, anything else as a path."""
    return text if "://" in text else Path(text).expanduser()


def data_folder() -> Path:
    """The user's own, for what this program keeps."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "autotune"


def default_database() -> Address:
    """`$AUTOTUNE_DB` (a path or a URL), else `latency.sqlite` in the user's data folder."""
    if os.environ.get("AUTOTUNE_DB"):
        return database_address(os.environ["AUTOTUNE_DB"])
    return data_folder() / "latency.sqlite"


def engine_cache() -> Path:
    """`$AUTOTUNE_CACHE`, else the user's cache folder: engines that were built here."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("AUTOTUNE_CACHE") or Path(base) / "autotune") / "engines"


def default_measure_seconds() -> float:
    """`$AUTOTUNE_MEASURE_SECONDS`, else 20: the time cap of one measurement of a network.

    Raises:
        UsageError: the variable is no number above zero.
    """
    text = os.environ.get("AUTOTUNE_MEASURE_SECONDS", "20")
    try:
        return check_measure_seconds(float(text))
    except ValueError as error:
        raise UsageError(f"AUTOTUNE_MEASURE_SECONDS={text!r}: a number of seconds") from error


def check_measure_seconds(seconds: float) -> float:
    """`seconds`, when it is between 0.1 and 3600.

    Raises:
        UsageError: it is not.
    """
    if not 0.1 <= seconds <= 3600:
        raise UsageError(f"--measure-seconds {seconds:g}: 0.1 to 3600")
    return seconds


def default_output(model: str | None) -> Path:
    """`autotune-out/<last part of the model's name>`."""
    name = "all-MiniLM-L6-v2" if model is None else Path(model).name
    return Path("autotune-out") / (name or "model")
