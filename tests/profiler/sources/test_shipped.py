"""The databases in the package: small, whole, and what the issue of cliffs is about."""

import json
from importlib.resources import files

import pytest

from autotune.core.forms import low_rank
from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.profiler.database.audit import find_problems
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.sources.shipped import load_shipped, shipped_devices, shipped_tables


def test_they_are_small_and_of_known_devices():
    assert "h200-sxm" in shipped_devices()
    folder = files("autotune.profiler") / "data"
    assert sum(len(entry.read_bytes()) for entry in folder.iterdir()) < 3e6
    for name in shipped_devices():
        assert find_device(name).name == name
    assert shipped_tables("t4", "fp16") == []
    assert shipped_tables("h200-sxm", "fp32") == []


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_points_are_measurements(dtype):
    tables = shipped_tables("h200-sxm", dtype)
    assert tables[0][0].backend == "torch-cudagraph"
    roofline = Roofline.of(find_device("h200-sxm"), 1)
    for fingerprint, rows in tables:
        assert (fingerprint.device_name, fingerprint.dtype) == ("NVIDIA H200", dtype)
        # Weights rotate past the cache, so nothing beats the sheet by much more than its rounding.
        faster = [row for row in rows if row.latency_s < 0.9 * roofline.latency_s(row.shape)]
        assert len(faster) < 0.01 * len(rows)


def test_a_rank_beyond_the_cliff_is_slower():
    """Of every measured layer with more than a few tokens: one more than a multiple of 8."""
    rows = {row.shape: row for row in shipped_tables("h200-sxm", "bf16")[0][1]}
    pairs = 0
    for shape, row in rows.items():
        if shape.rank and shape.rank % 8 == 1 and shape.tokens >= 128:
            aligned = rows.get(shape.with_form(low_rank(shape.rank - 1)))
            if aligned is not None:
                pairs += 1
                assert row.ratio > 1.02 * aligned.ratio, shape
    assert pairs > 50


def test_they_can_be_copied_into_a_database(tmp_path):
    with LatencyDatabase(tmp_path / "db.sqlite") as database:
        count = load_shipped(database, "h200-sxm")
        kept = sum(len(database.measurements(key)) for key in database.fingerprints())
        assert kept == count > 5000
        assert find_problems(database) == []


def test_a_device_elsewhere_is_answered_from_its_database(cli):
    shape = ("--device", "h200", "--tokens", 2048, "--shape", "4096x4096")
    done = cli("predict", *shape, "--rank", 1152, "--rank", 1153, "--format", "json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert "NVIDIA H200" in record["sources"][0]
    _, aligned, beyond = record["estimates"]
    assert aligned["source"] == beyond["source"] == "measured"
    assert aligned["ratio"] < 0.8 < 3 < beyond["ratio"]
    done = cli("predict", *shape, "--dtype", "fp32")
    assert done.returncode == 2
    assert "bf16 or fp16" in done.stderr
