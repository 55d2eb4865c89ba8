"""Plans judged by workers have the losses that they have here; a worker that dies loses none."""

import os
import tempfile
from pathlib import Path

import pytest

from autotune.farm.judging import FarmEvaluators, pack, unpack
from autotune.search.evaluator import Evaluators
from autotune.search.judges import JudgePool
from tests.autotune.farm.conftest import wait_for
from tests.autotune.service.processes import gone, kill, mentioning
from tests.conftest import LLAMA
from tests.search.test_evaluator import world

__all__ = ["world"]


def test_what_is_packed_is_unpacked(world, tmp_path):
    setup, *_ = world
    here = unpack(setup, pack(setup), tmp_path)
    assert pack(here) == pack(setup)
    assert here.sites == setup.sites
    assert str(tmp_path) in here.model


def test_workers_find_the_same_losses(world, cluster):
    setup, plans, evidence = world
    with Evaluators(setup, 1, 1) as evaluators:
        expected = dict(evaluators.losses(plans))
    farm = FarmEvaluators(cluster, setup)
    found = dict(farm.losses(plans))
    assert len(mentioning("HostJudge")) == 1
    assert list(Path(tempfile.gettempdir()).glob("autotune-judge-*"))
    assert set(found) == set(range(len(plans)))
    for index, batches in expected.items():
        for (ours, count), (theirs, tokens) in zip(batches, found[index], strict=True):
            assert theirs == pytest.approx(ours, rel=1e-5)
            assert tokens == count
    together = evidence(farm)
    together.judge(plans, lambda done, total: None)
    assert together.true_loss(plans[0]) == pytest.approx(evidence().true_loss(plans[0]), rel=1e-5)
    JudgePool.close(farm)  # the cluster stays for the other tests
    assert gone("HostJudge", 20)
    assert not list(Path(tempfile.gettempdir()).glob("autotune-judge-*"))


def test_a_worker_that_dies_gives_no_wrong_answer(world, cluster):
    setup, plans, _ = world
    with Evaluators(setup, 1, 1) as evaluators:
        expected = dict(evaluators.losses(plans))
    farm = FarmEvaluators(cluster, setup)
    answers = farm.losses(plans)
    found = dict([next(answers)])
    killed = [kill(pid) for pid in mentioning("HostJudge")]
    assert killed
    found |= dict(answers)
    assert set(found) == set(range(len(plans)))  # another one on the same host went on
    for index, batches in found.items():
        assert batches[0][0] == pytest.approx(expected[index][0][0], rel=1e-5)
    JudgePool.close(farm)
    wait_for(lambda: not list(Path(tempfile.gettempdir()).glob("autotune-judge-*")), 20)


def test_a_tuning_lets_the_farm_judge(farm, cluster, cli, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((LLAMA / "heldout.txt").read_text()[:40_000])
    done = cli(
        "tune", "--model", LLAMA, "--latency-budget", "1x", "--batch-size", 1, "--isl", 64,
        "--calibration", text, "--calibration-samples", 4, "--trials", 1, "--rounds", 1,
        "--sensitivity-rounds", 1, "--targets", "mlp", "--no-joint", "--threads", 1,
        "--db", tmp_path / "latency.sqlite", "--output", tmp_path / "out", "--farm", farm.address,
        env={**os.environ, "AUTOTUNE_FARM_TOKEN": farm.token},
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert f"plans are judged by the farm at {farm.address}" in done.stderr
    assert "unjudged" not in done.stderr
    assert (tmp_path / "out" / "result.json").is_file()
