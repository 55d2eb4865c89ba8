"""Optuna outside, the exact solver inside."""

import multiprocessing
import os
import signal
import threading
import time

import optuna
import pytest
from sqlalchemy.pool import NullPool

from autotune.core.forms import low_rank
from autotune.core.layers import Site
from autotune.search import outer
from autotune.search.outer import error_multiplier, knob_names, search_knobs
from autotune.search.problem import Allocation
from tests.waiting import wait_for


def site(name, group, block):
    return Site(name=name, in_features=64, out_features=64, tokens=8, group=group, block=block)


SITES = [site(f"b{b}.{g}", g, b) for b in range(4) for g in ("attention", "mlp")]


def solve(knobs):
    losses = {s.name: error_multiplier(s, knobs, blocks=4) for s in SITES}
    return Allocation(
        plan={name: low_rank(round(1000 * value)) for name, value in losses.items()},
        loss=sum(losses.values()),
        costs=(1.0,),
        lower_bound=0.0,
        solver="test",
    )


def true_loss(allocation):
    """Least where MLP errors count double and depth does not matter."""
    wanted = {s.name: 2000 if s.group == "mlp" else 1000 for s in SITES}
    return sum((allocation.plan[n].rank / wanted[n] - 1) ** 2 for n in wanted)


def run(tmp_path, trials, **options):
    return search_knobs(
        SITES,
        solve,
        true_loss=options.pop("loss", true_loss),
        surely_better=options.pop("surely_better", lambda a, b: true_loss(a) < true_loss(b)),
        trials=trials,
        storage=options.pop("storage", tmp_path / "optuna.sqlite"),
        name="study",
        **options,
    )


def test_few_knobs():
    assert knob_names(SITES) == ["group:mlp", "depth:slope", "depth:bend"]
    assert knob_names([site("a", "other", None)]) == []


def test_neutral_knobs_change_nothing():
    assert {error_multiplier(s, {}, blocks=4) for s in SITES} == {1.0}
    assert {
        error_multiplier(s, dict.fromkeys(knob_names(SITES), 0.0), blocks=4) for s in SITES
    } == {1.0}


def test_the_search_is_never_worse_than_the_plain_table(tmp_path):
    plain = true_loss(solve({}))
    for trials in (1, 30):
        loss = true_loss(solve(run(tmp_path, trials)))
        assert loss <= plain
    assert loss < plain


def test_luck_is_not_taken_for_a_gain(tmp_path):
    knobs = run(tmp_path, 30, surely_better=lambda a, b: False)
    assert knobs == dict.fromkeys(knob_names(SITES), 0.0)


def test_a_study_goes_on_where_it_stopped(tmp_path):
    calls = []

    def counted(allocation):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return true_loss(allocation)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 6, loss=counted)
    run(tmp_path, 6, loss=counted)
    assert len(calls) == 4 + 3
    run(tmp_path, 6, loss=counted)
    assert len(calls) == 7


def trials_of(url):
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": NullPool})
    return optuna.load_study(study_name="study", storage=storage).trials


def test_workers_try_at_the_same_time(tmp_path):
    running, most, together = set(), [], threading.Event()

    def loss(allocation):
        """The first ones end when three are at work."""
        running.add(threading.get_ident())
        most.append(len(running))
        if len(running) == 3:
            together.set()
        assert together.wait(60)
        time.sleep(0.05)  # for a fourth, which there shall not be
        running.discard(threading.get_ident())
        return true_loss(allocation)

    run(tmp_path, 9, loss=loss, workers=3)
    assert max(most) == 3
    assert [trial.state.name for trial in trials_of(f"sqlite:///{tmp_path}/optuna.sqlite")].count(
        "COMPLETE"
    ) == 9


def share(tmp_path, storage, dies):
    """One of several processes on the study; one is killed in the middle of its second trial."""
    calls = []

    def loss(allocation):
        calls.append(1)
        if dies and len(calls) == 2:
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        while not dies and not (tmp_path / "died").exists():
            threading.Event().wait(0.05)
        return true_loss(allocation)

    run(tmp_path, 12, loss=loss, storage=storage)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_processes_share_a_study_and_what_a_killed_one_was_at_is_tried_again(
    tmp_path, kind, request, monkeypatch
):
    monkeypatch.setattr(outer, "_HEARTBEAT_S", 1)
    monkeypatch.setattr(outer, "_GRACE_S", 8)
    storage = tmp_path / "optuna.sqlite"
    if kind == "postgres":
        address = request.getfixturevalue("postgres_server").new_database()
        storage = str(address).replace("postgresql://", "postgresql+psycopg://", 1)
    run(tmp_path, 1, storage=storage)  # Optuna's tables are made by one
    fork = multiprocessing.get_context("fork")
    workers = [
        fork.Process(target=share, args=(tmp_path, storage, dies)) for dies in (True, False, False)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert sorted(worker.exitcode for worker in workers) == [-9, 0, 0]
    url = storage if isinstance(storage, str) else f"sqlite:///{storage}"
    trials = trials_of(url)
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert 12 <= len(done) <= 14  # the others may have been at one more each
    stale = [trial for trial in trials if trial.state.name in ("FAIL", "RUNNING")]
    assert stale
    assert stale[0].params

    def tried_again():
        """One trial more at a time, until the grace of what the killed process was at is over."""
        trials = trials_of(url)
        done = [trial.params for trial in trials if trial.state.name == "COMPLETE"]
        if all(trial.params in done for trial in stale):
            return True
        assert set(run(tmp_path, 1 + len(done), storage=storage)) == set(knob_names(SITES))
        return False

    wait_for(tried_again)
