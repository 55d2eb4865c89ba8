"""Real results that commit 2a6778f wrote (tests/data/README.md), as today's records."""

import json
from dataclasses import replace
from pathlib import Path

from autotune.results.record import TuneRecord
from autotune.results.upgrade import upgrade

DATA = Path(__file__).parent / "data"
MEASURED, PREDICTED = "result-v3.json", "result-v3-elsewhere.json"
# What a finished job of that commit keeps of its result.
SUMMARY_KEYS = (
    "model", "backend", "dtype", "budget", "workload", "within_budget", "measured_ratio",
    "measured_ratio_low", "measured_ratio_high", "predicted_ratio", "measured_latency_s",
    "predicted_latency_s", "dense_latency_s", "quality", "parameters", "stored_bytes", "cost",
)  # fmt: skip


def read_v3(name):
    """The JSON of a stored result, without its schema version."""
    values = json.loads((DATA / name).read_text())
    assert values.pop("schema_version") == 3
    return values


def stored_record(name=MEASURED):
    """A stored result as a record of the current version."""
    return TuneRecord.from_json(upgrade(read_v3(name), 3, where=name), name)


def kept_record(name=MEASURED, ratio=1.01):
    """The same with a compressed perplexity of `ratio` times the dense one."""
    record = stored_record(name)
    quality = replace(record.quality, compressed=ratio * record.quality.dense)
    return replace(record, quality=quality)
