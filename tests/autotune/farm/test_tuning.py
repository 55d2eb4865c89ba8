"""A tuning on a farm: this host plans, a worker measures layers and networks."""

import json
import os
import sqlite3

import pytest

from tests.damage import save_model
from tests.outcomes import assert_finished
from tests.waiting import wait_for

pytestmark = [pytest.mark.farm, pytest.mark.duration(60)]
# Any latency will do, so the verdict is sure; the budget of parameters has layers factorized.
OPTIONS = (
    "--latency-budget",
    "1s",
    "--params-budget",
    "0.95x",
    "--batch-size",
    1,
    "--isl",
    64,
    "--calibration-samples",
    8,
    "--factors",
    "plain",
    "--trials",
    0,
    "--sensitivity-rounds",
    0,
    "--rounds",
    1,
    "--no-references",
    "--no-other-shapes",
    "--threads",
    1,
    "--format",
    "json",
)


@pytest.fixture(scope="module")
def worker(farm):
    farm.worker()
    with_worker = farm.executor()
    try:
        wait_for(with_worker.devices)
    finally:
        with_worker.close()
    return farm


@pytest.fixture(scope="module")
def without_backend(tmp_path_factory):
    """A folder that hides onnxruntime from a process that has it first on its path."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "onnxruntime").mkdir()
    (folder / "onnxruntime" / "__init__.py").write_text("raise ImportError('not installed here')")
    return folder


def test_a_host_without_the_backend_tunes_for_the_workers_device(
    worker, without_backend, cli, tmp_path
):
    database, out = tmp_path / "latency.sqlite", tmp_path / "out"
    path = os.pathsep.join(filter(None, (str(without_backend), os.environ.get("PYTHONPATH"))))
    environment = {
        **os.environ,
        "AUTOTUNE_FARM_TOKEN": worker.token,
        "AUTOTUNE_DB": str(database),
        "PYTHONPATH": path,
    }
    save_model(tmp_path / "dense")
    options = ("--model", tmp_path / "dense", *OPTIONS)
    hidden = cli("tune", *options, "--output", tmp_path / "here", env=environment, fresh=True)
    assert hidden.returncode != 0, "the host must not be able to measure itself"
    command = ("tune", *options, "--output", out, "--farm", worker.address)
    done = cli(*command, env=environment, fresh=True)
    record = assert_finished(done, out)
    assert record["predicted_from"] == []
    assert record["measured_ratio"] is not None
    assert record["rounds"][0]["measured_ratio"] is not None
    assert record["device"]["device"] == "cpu"
    measured = {
        site["name"]: site["measured_latency_s"] for site in record["sites"] if "group" in site
    }
    assert measured
    assert all(seconds > 0 for seconds in measured.values())
    with sqlite3.connect(database) as store:
        (points,) = store.execute("SELECT count(*) FROM measurement WHERE error IS NULL").fetchone()
    assert points > 10, "layers are kept in the database of this host"
    # Again: everything measured is reused, and the farm is only asked who it is. Only a budget that
    # was not met is a reason to measure what did not settle once more.
    again = assert_finished(cli(*command, env=environment, fresh=True), out)
    assert again["measured_ratio"] == record["measured_ratio"] or record["verdict"] != "met"
    # The folder is one that whoever has the device can measure again.
    bench = json.loads(cli("bench", out, "--format", "json").stdout.splitlines()[-1])
    assert bench["tuned_ratio"] == again["measured_ratio"]
    assert bench["ratio"] > 0
