"""Defaults that the environment may change."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from autotune.core.errors import UsageError, option_name
from autotune.core.types import Address

MEASURE_SECONDS = "AUTOTUNE_MEASURE_SECONDS"


def database_address(text: str) -> Address:
    """A URL as it is, anything else as a path."""
    return text if "://" in text else Path(text).expanduser()


def check_database_exists(address: Address | None) -> None:
    """Refuse a mistyped path that would be made an empty database, and then read.

    The default database may be missing; so does every one before its first measurement.

    Raises:
        UsageError: a path where there is no file.
    """
    if isinstance(address, Path) and address != default_database() and not address.exists():
        raise UsageError(
            f"{option_name('machine.database')}: {address} does not exist; give a database that "
            "`autotune profile` or a tuning has written"
        )


def data_folder() -> Path:
    """The user's own, for what this program keeps."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "autotune"


def state_folder() -> Path:
    """The user's own, for reports of crashes; nothing there is needed again."""
    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:  # a user without a home
        base = tempfile.gettempdir()
    return Path(base) / "autotune"


def default_database() -> Address:
    """`$AUTOTUNE_DB` (a path or a URL), else `latency.sqlite` in the user's data folder."""
    if os.environ.get("AUTOTUNE_DB"):
        return database_address(os.environ["AUTOTUNE_DB"])
    return data_folder() / "latency.sqlite"


def engine_cache() -> Path:
    """Where engines are kept that were built here."""
    return _cache_folder() / "engines"


def fits_cache() -> Path:
    """Where models of latency are kept that were fitted here."""
    return _cache_folder() / "fits"


def outlines_cache() -> Path:
    """Where outlines of models are kept that were found here."""
    return _cache_folder() / "outlines"


def _cache_folder() -> Path:
    """`$AUTOTUNE_CACHE`, else the user's cache folder; what is there can be made again."""
    given = os.environ.get("AUTOTUNE_CACHE")
    if given:
        return Path(given)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        base = tempfile.gettempdir()
    return Path(base) / "autotune"


def default_measure_seconds() -> float:
    """`$AUTOTUNE_MEASURE_SECONDS`, else 20: the time limit of one measurement of a network.

    Raises:
        UsageError: the variable is not a number from 0.1 to 3600.
    """
    text = os.environ.get(MEASURE_SECONDS) or "20"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise UsageError(f"{MEASURE_SECONDS} must be 0.1 to 3600 seconds, got {text!r}")
    return seconds


def default_output(model: str | None) -> Path:
    """`autotune-out/<last part of the model's name>`."""
    name = "all-MiniLM-L6-v2" if model is None else Path(model).name
    return Path("autotune-out") / (name or "model")
