"""Optuna outside, the exact solver inside."""

import pytest

from autotune.search.outer import error_multiplier, knob_names, search_knobs
from autotune.search.problem import Allocation
from autotune.types import Site


def site(name, group, block):
    return Site(name=name, in_features=64, out_features=64, tokens=8, group=group, block=block)


SITES = [site(f"b{b}.{g}", g, b) for b in range(4) for g in ("attention", "mlp")]


def solve(knobs):
    losses = {s.name: error_multiplier(s, knobs, 4) for s in SITES}
    return Allocation(
        ranks={name: round(1000 * value) for name, value in losses.items()},
        loss=sum(losses.values()), costs=(1.0,), lower_bound=0.0, solver="test",
    )  # fmt: skip


def true_loss(allocation):
    """Least where MLP errors count double and depth does not matter."""
    wanted = {s.name: 2000 if s.group == "mlp" else 1000 for s in SITES}
    return sum((allocation.ranks[n] / wanted[n] - 1) ** 2 for n in wanted)


def run(tmp_path, trials, **options):
    return search_knobs(
        SITES, solve, options.pop("loss", true_loss),
        options.pop("surely_better", lambda a, b: true_loss(a) < true_loss(b)), trials=trials,
        storage=tmp_path / "optuna.sqlite", name="study", **options,
    )  # fmt: skip


def test_few_knobs():
    assert knob_names(SITES) == ["group:mlp", "depth:slope", "depth:bend"]
    assert knob_names([site("a", "other", None)]) == []


def test_neutral_knobs_change_nothing():
    assert {error_multiplier(s, {}, 4) for s in SITES} == {1.0}
    assert {error_multiplier(s, dict.fromkeys(knob_names(SITES), 0.0), 4) for s in SITES} == {1.0}


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
