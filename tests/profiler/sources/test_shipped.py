"""The databases in the package: small, whole, and what the issue of cliffs is about."""

import json
import shutil
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

import autotune
from autotune.core.errors import DatabaseError
from autotune.core.files import file_sha256
from autotune.core.forms import low_rank
from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.profiler.database.audit import find_problems
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.rows import SCHEMA
from autotune.profiler.sources import shipped
from autotune.profiler.sources.shipped import (
    SUMS,
    load_shipped,
    shipped_devices,
    shipped_files,
    shipped_tables,
)

PROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the shipped files that may be changed."""
    found = tmp_path / "data"
    shutil.copytree(str(files("autotune.profiler") / "data"), found)
    monkeypatch.setattr(shipped, "_FOLDER", found)
    return found


def test_they_say_who_made_them_and_under_which_licence():
    project = tomllib.loads(PROJECT.read_text())["project"]
    found = shipped_files()
    assert [one.device for one in found] == [*shipped_devices()]
    for one in found:
        assert one.facts.license == project["license"]
        assert one.facts.author == project["authors"][0]["name"]
        assert one.facts.schema == SCHEMA
        assert "benchmarks/device_database.py" in one.facts.script
        assert all(record.device == one.device for record, _ in one.points)


def test_every_file_is_the_one_of_the_sums():
    folder = files("autotune.profiler") / "data"
    lines = (folder / SUMS).read_text().splitlines()
    names = [entry.name for entry in folder.iterdir() if entry.name != SUMS]
    assert sorted(names) == sorted(line.split()[1] for line in lines)
    for line in lines:
        digest, name = line.split()
        assert file_sha256(Path(str(folder / name))) == digest


@pytest.mark.parametrize("damage", ["changed", "unlisted"])
def test_a_file_that_was_not_shipped_is_named_with_what_to_do(folder, damage):
    path = folder / "h200-sxm.parquet"
    if damage == "changed":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        says = f"is damaged: its sha256 is not that of {SUMS}"
    else:
        (folder / SUMS).write_text("")
        says = f"is not in {SUMS} beside it"
    for read in (lambda: shipped_tables("h200-sxm", "bf16"), shipped_files):
        with pytest.raises(DatabaseError) as caught:
            read()
        assert str(caught.value).startswith(f"{path} {says}; reinstall lowrank-autotune")


def test_another_day_of_a_device_is_listed_and_answers_nothing(folder):
    before = shipped_tables("h200-sxm", "fp16")
    shutil.copy(folder / "h200-sxm.parquet", folder / "h200-sxm.2026-12-01.parquet")
    with (folder / SUMS).open("a") as sums:
        sums.write(f"{file_sha256(folder / 'h200-sxm.parquet')}  h200-sxm.2026-12-01.parquet\n")
    assert shipped_devices() == ("h200-sxm",)
    assert shipped_tables("h200-sxm", "fp16") == before
    assert [one.device for one in shipped_files()] == ["h200-sxm", "h200-sxm"]


def test_some_points_have_the_energy_that_another_day_counted():
    rows = shipped_tables("h200-sxm", "bf16")[0][1]
    counted = [row for row in rows if row.energy_j is not None]
    assert len(counted) == 498
    # Between two calls some is drawn too (benchmarks/results/2026-11-29-h200-energy.md).
    shares = sorted(row.power_w * row.latency_s / row.energy_j for row in counted)
    assert 0.8 < shares[len(shares) // 2] < 1


def test_pivoted_pairs_are_among_them():
    rows = shipped_tables("h200-sxm", "bf16")[0][1]
    pivoted = [row for row in rows if row.shape.form.structure == "pivoted"]
    assert len(pivoted) == 1386
    dense = {row.shape for row in rows}
    assert all(row.shape.dense in dense for row in pivoted)


def test_they_are_listed_with_their_facts(cli):
    done = cli("db", "list", "--format", "json")
    assert done.returncode == 0, done.stderr
    [one] = json.loads(done.stdout)["databases"]
    assert (one["file"], one["device"]) == ("h200-sxm.parquet", "h200-sxm")
    assert (one["license"], one["schema"]) == ("Apache-2.0", SCHEMA)
    counts = {(each["backend"], each["dtype"]): each["points"] for each in one["fingerprints"]}
    assert counts["torch-cudagraph", "bf16"] == 13537
    text = cli("db", "list").stdout
    assert one["sha256"] in text
    assert "NVIDIA H200, torch-cudagraph bf16: 13537 points" in text


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


@pytest.mark.parametrize(
    ("asked", "seconds", "ratio", "source"),
    [
        (
            (2048, 4096, 4096, 1024),
            (4.2930125388858e-05, 6.31343860305541e-05),
            0.58938971510458,
            2,
        ),
        (
            (2048, 4096, 4096, 1152),
            (4.80682543147575e-05, 6.84175758928781e-05),
            0.64950284500916,
            0,
        ),
        ((1, 5120, 13824, 320), (1.10166502447922e-05, 1.54564272430195e-05), 0.33270319953066, 2),
        ((1, 4096, 11008, 64), (3.66401349765976e-06, 1.17411283924345e-05), 0.22606110429075, 1),
    ],
)
def test_answers_are_the_recorded_ones(asked, seconds, ratio, source):
    """Of the whole table, however it is read: interpolation and doubts are learned from all."""
    tokens, k, n, rank = asked
    (_, found) = autotune.predict(
        device="h200", tokens=tokens, shape=f"{k}x{n}", ranks=(rank,)
    ).estimates
    assert found.source == ("measured", "unsettled", "interpolated")[source]
    assert (found.low_s, found.high_s) == pytest.approx(seconds, rel=1e-9)
    assert found.ratio == pytest.approx(ratio, rel=1e-9)


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
