"""Plans judged by workers have the losses that they have here; a worker that dies loses none."""

import os
import tempfile
from pathlib import Path

import pytest

from autotune.core.progress import no_progress
from autotune.farm.judging import FarmEvaluators, pack, sweep, unpack
from autotune.search.evaluator import Evaluators
from autotune.search.judges import JudgePool
from autotune.testing.suites.judge_pool import JudgePoolSuite
from tests.autotune.service.processes import descendants, kill
from tests.conftest import LLAMA
from tests.damage import save_model
from tests.outcomes import assert_finished
from tests.search.test_evaluator import world
from tests.waiting import wait_for

pytestmark = [pytest.mark.farm, pytest.mark.duration(60)]

__all__ = ["world"]


def folders():
    """Of judges on this machine."""
    return set(Path(tempfile.gettempdir()).glob("autotune-judge-*"))


def judges(farm):
    """pids of the processes that a farm's workers keep for judging."""
    below = [each for process in farm.processes for each in descendants(process.pid).items()]
    return [pid for pid, command in below if "HostJudge" in command]


def test_what_killed_judges_left_is_swept_away(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("autotune-judge-999999999-x", f"autotune-judge-{os.getpid()}-x", "other-1-x"):
        (tmp_path / name / "model").mkdir(parents=True)
    sweep()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"autotune-judge-{os.getpid()}-x", "other-1-x"}


def test_what_is_packed_is_unpacked(world, tmp_path):
    setup, *_ = world
    here = unpack(setup, pack(setup), folder=tmp_path)
    assert pack(here) == pack(setup)
    assert here.sites == setup.sites
    assert str(tmp_path) in here.model


@pytest.fixture(scope="module")
def expected(world):
    """The losses of the plans as one process here finds them."""
    setup, plans, _ = world
    with Evaluators(setup, 1, threads=1) as evaluators:
        return dict(evaluators.losses(plans))


@pytest.fixture
def pool(world, farm, cluster):
    """Judges of the farm, which leave neither processes nor files."""
    wait_for(lambda: not judges(farm), 60)  # of the test before
    before = folders()
    made = FarmEvaluators(cluster, world[0])
    yield made
    JudgePool.close(made)  # the cluster stays for the other tests
    wait_for(lambda: not judges(farm) and not folders() - before, 60)


class TestFarmEvaluators(JudgePoolSuite):
    @pytest.fixture
    def plans(self, world):
        return world[1]

    @pytest.fixture
    def expected(self, plans, expected):
        return [expected[index] for index in range(len(plans))]

    @pytest.fixture
    def make_pool(self, world, cluster):
        return lambda: FarmEvaluators(cluster, world[0])


def test_workers_find_the_same_losses(world, expected, farm, pool):
    _, plans, evidence = world
    before = folders()
    found = dict(pool.losses(plans))
    assert len(judges(farm)) == 1
    assert folders() - before
    assert set(found) == set(range(len(plans)))
    for index, batches in expected.items():
        for (ours, count), (theirs, tokens) in zip(batches, found[index], strict=True):
            assert theirs == pytest.approx(ours, rel=1e-5)
            assert tokens == count
    together = evidence(pool)
    together.judge(plans, no_progress)
    assert together.true_loss(plans[0]) == pytest.approx(evidence().true_loss(plans[0]), rel=1e-5)


def test_a_worker_that_dies_gives_no_wrong_answer(world, expected, farm, pool):
    _, plans, _ = world
    answers = pool.losses(plans)
    found = dict([next(answers)])
    assert judges(farm)
    for pid in judges(farm):
        kill(pid)
    found |= dict(answers)
    assert set(found) == set(range(len(plans)))  # another one on the same host went on
    for index, batches in found.items():
        assert batches[0][0] == pytest.approx(expected[index][0][0], rel=1e-5)


def test_a_tuning_lets_the_farm_judge(farm, cluster, cli, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((LLAMA / "heldout.txt").read_text()[:40_000])
    save_model(tmp_path / "dense")
    done = cli(
        "tune",
        "--model",
        tmp_path / "dense",
        "--latency-budget",
        "1x",
        "--batch-size",
        1,
        "--isl",
        64,
        "--calibration",
        text,
        "--calibration-samples",
        4,
        "--trials",
        1,
        "--rounds",
        1,
        "--sensitivity-rounds",
        1,
        "--targets",
        "mlp",
        "--no-joint",
        "--no-references",
        "--no-other-shapes",
        "--precision",
        "native",  # plans with integers are judged by this host alone
        "--threads",
        1,
        "--db",
        tmp_path / "latency.sqlite",
        "--output",
        tmp_path / "out",
        "--farm",
        farm.address,
        env={**os.environ, "AUTOTUNE_FARM_TOKEN": farm.token},
    )
    assert_finished(done, tmp_path / "out")
    assert f"plans are judged by the farm at {farm.address}" in done.stderr
    assert "died before it judged" not in done.stderr
