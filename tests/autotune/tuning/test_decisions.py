"""Only ranks whose guess could change the plan are measured, and the plan is then the true one."""

import itertools

import numpy as np
import pytest

from autotune.core.forms import DENSE, low_rank
from autotune.core.layers import LayerShape, Site
from autotune.core.types import Estimate
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.network.model import NetworkAnchor, NetworkModel, PhaseModel
from autotune.tuning.decisions import Optimistic, guessed, measure_decisions
from tests.forms import form_of, plan_of

RANKS = (None, 8, 16, 24, 32, 40, 48)
SITES = [Site(name=f"s{i}", in_features=128, out_features=128 + i, tokens=64) for i in range(3)]


class Guesses(LatencyPredictor):
    """True ratios for what was measured, else guesses within a tenth of them."""

    def __init__(self, seed):
        draw = np.random.default_rng(seed)
        self.truth, self.guess, self.measured = {}, {}, set()
        for site, rank in itertools.product(SITES, RANKS):
            shape = site.shape(form_of(rank), "fp32")
            # Larger ranks take longer, but not by much: neighbours may change places.
            self.truth[shape] = 1.0 if rank is None else 0.3 + rank / 90 + draw.uniform(0, 0.1)
            self.guess[shape] = self.truth[shape] * np.exp(draw.uniform(-0.1, 0.1))
        self.asked = []

    def estimate(self, shape):
        if shape.is_dense or shape in self.measured:
            ratio, half, source = self.truth[shape], 0.0, "measured"
        else:
            ratio, half, source = self.guess[shape], 0.1, "interpolated"
        return Estimate(
            latency_s=ratio,
            low_s=ratio * np.exp(-half),
            high_s=ratio * np.exp(half),
            ratio=ratio,
            source=source,
        )

    def measure(self, shapes):
        self.asked.append(shapes)
        self.measured |= set(shapes)
        return self


def model(predictor):
    shapes = {site.shape(DENSE, "fp32"): 0.25 for site in SITES}
    anchor = NetworkAnchor(latency_s=1.0, layer_shares=shapes)
    return NetworkModel(phases=(PhaseModel(anchor=anchor, predictor=predictor, sites=SITES),))


def solve(network, limit=0.8):
    """By enumeration: the least loss within the limit."""
    losses = dict(zip(map(form_of, RANKS), (0.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05), strict=True))
    plans = (
        plan_of(dict(zip([s.name for s in SITES], ranks, strict=True)))
        for ranks in itertools.product(RANKS, repeat=len(SITES))
    )
    fitting = [plan for plan in plans if network.phases[0].predict(plan).latency_s <= limit]
    return min(fitting, key=lambda plan: sum(losses[form] for form in plan.values()))


@pytest.mark.parametrize("seed", range(20))
def test_the_plan_is_the_one_of_a_table_measured_whole(seed):
    table, whole = Guesses(seed), Guesses(seed)
    whole.measured = set(whole.truth)
    network = measure_decisions(model(table), solve, measure=table.measure, turns=50)
    chosen = solve(network)
    assert chosen == solve(model(whole))
    assert guessed(network, chosen) == []
    assert len(table.measured) < len(SITES) * (len(RANKS) - 1)  # and not everything was


def test_guesses_alone_would_have_chosen_otherwise():
    """What the measuring is for: without it some of these plans break the limit, or waste it."""
    plans = [(solve(model(Guesses(seed))), Guesses(seed)) for seed in range(20)]
    assert any(model(_whole(t)).phases[0].predict(plan).latency_s > 0.8 for plan, t in plans)


def _whole(table):
    table.measured = set(table.truth)
    return table


def test_it_ends_after_its_turns_and_measures_nothing_twice():
    table = Guesses(3)
    measure_decisions(model(table), solve, measure=table.measure, turns=2)
    assert len(table.asked) <= 2
    every = [shape for shapes in table.asked for shape in shapes]
    assert len(every) == len(set(every))


def test_only_guesses_are_hoped_for():
    table = Guesses(0)
    shape = LayerShape(tokens=64, in_features=128, out_features=128, form=low_rank(16))
    found = Optimistic(table).estimate(shape)
    assert found.latency_s == table.estimate(shape).low_s
    assert found.ratio == pytest.approx(table.estimate(shape).ratio * np.exp(-0.1))
    table.measured.add(shape)
    assert Optimistic(table).estimate(shape) == table.estimate(shape)
