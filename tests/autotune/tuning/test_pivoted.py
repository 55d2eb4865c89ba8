"""Pivoted factors through a whole tuning: the same budget buys larger ranks."""

import pytest

import autotune
from autotune.results.checks import CheckKind
from tests.autotune.tuning.small import small_home, tune_small

pytestmark = [pytest.mark.slow, pytest.mark.duration(40)]
BUDGET = 0.9


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The same small tuning with either choice of factors."""
    home = small_home(tmp_path_factory.mktemp("pivoted"))
    return {
        factors: tune_small(home, factors, params_budget=f"{BUDGET}x", factors=factors)
        for factors in ("plain", "auto")
    }


def test_the_plan_has_larger_ranks_within_the_budget(tuned):
    plain, auto = tuned["plain"].record, tuned["auto"].record
    structures = {site.form.structure for site in auto.sites if not site.form.is_dense}
    assert "pivoted" in structures
    assert {site.form.suffix for site in plain.sites} == {""}
    for record in (plain, auto):
        assert record.parameters.compressed <= BUDGET * record.parameters.dense
    loss = {name: sum(site.error for site in one.record.sites) for name, one in tuned.items()}
    assert loss["auto"] < loss["plain"]


def test_what_is_handed_out_is_the_plan(tuned):
    checked = autotune.verify(tuned["auto"].folder)
    held = {check.kind: check for check in checked.checks}
    for kind in (CheckKind.HASH, CheckKind.RANKS, CheckKind.PARITY, CheckKind.QUALITY):
        assert held[kind].holds, held[kind]
    assert held[CheckKind.PARITY].facts.worst < 1e-5


def test_the_network_tells_what_its_sites_take(tuned):
    """Gathers and sums are of the site whose layer they belong to."""
    seconds = [site.measured_latency_s for site in tuned["auto"].record.sites]
    assert all(each > 0 for each in seconds)
