"""A quality floor: the least latency that keeps it."""

import math
from types import SimpleNamespace

import pytest

from autotune.core.errors import AutotuneError, BudgetInfeasibleError, QuantityError
from autotune.core.forms import DENSE, low_rank
from autotune.core.quantities import QUALITY, parse_quantity
from autotune.core.types import Budget
from autotune.results.measured import Measured, MeasuredPass
from autotune.results.parts import Quality
from autotune.results.verdict import Verdict
from autotune.search.losses import PlanLosses
from autotune.tuning.floor import FloorLoop, least_latency, loss_limit
from autotune.tuning.loop import ClosedLoop
from autotune.tuning.rounds import Round
from tests.autotune.tuning.small import small_home, tune_small


def quality(dense, compressed, *, metric="cosine", higher_is_better=True):
    return Quality(
        metric=metric,
        dense=dense,
        compressed=compressed,
        higher_is_better=higher_is_better,
        protocol="",
    )


@pytest.mark.parametrize(
    ("floor", "judged", "kept"),
    [
        ("0.99", quality(1.0, 0.991), True),
        ("0.99", quality(1.0, 0.989), False),
        ("0.9x", quality(0.8, 0.73), True),
        ("0.9x", quality(0.8, 0.71), False),
        ("1.05x", quality(4.0, 4.1, metric="perplexity", higher_is_better=False), True),
        ("1.05x", quality(4.0, 4.3, metric="perplexity", higher_is_better=False), False),
        ("4.2", quality(4.0, 4.1, metric="perplexity", higher_is_better=False), True),
        ("0.1", quality(4.0, 900.0, metric="loss", higher_is_better=False), False),
    ],
)
def test_a_floor_is_kept_in_the_direction_of_the_figure(floor, judged, kept):
    assert judged.keeps(parse_quantity(floor, QUALITY)) is kept


def test_a_floor_is_a_budget_of_its_own():
    assert Budget(quality="0.99").limits() == {}
    assert Budget(quality=" 1.05x ").floor().value == 1.05
    with pytest.raises(QuantityError, match=r"0\.99 or 1\.05x"):
        Budget(quality="99%")
    with pytest.raises(QuantityError, match="above zero"):
        Budget(quality="0")


@pytest.mark.parametrize("limit", [1e-6, 0.02, 3.7])
def test_the_largest_rise_is_found(limit):
    assert loss_limit(lambda rise: rise <= limit) == pytest.approx(limit)


def test_where_nothing_keeps_a_floor_no_rise_is_allowed():
    assert loss_limit(lambda rise: False) < 0


def test_a_rise_is_bounded_by_how_much_batches_differ():
    class Known(PlanLosses):
        def __init__(self, losses):
            self._known = losses

        def losses(self, plan):
            return self._known[bool(plan)]

    dense = [[8.0, 4], [4.0, 4]]
    alike = Known({False: dense, True: [[8.4, 4], [4.4, 4]]})
    assert alike.highest_rise({"a": 1}) == pytest.approx(0.1)
    apart = Known({False: dense, True: [[8.8, 4], [4.0, 4]]})
    # Rises of 0.2 and 0: a mean of 0.1 with a standard error of 0.1.
    assert apart.highest_rise({"a": 1}) == pytest.approx(0.1 + 1.64 * 0.1)


def test_the_least_latency_that_keeps_a_floor(planner):
    """Compared with every target of a fine grid."""
    floor = planner.table_loss(planner.within(0.9).solve({}, margin=0.0).plan)

    def keeps(plan):
        return planner.table_loss(plan) <= floor * (1 + 1e-9)

    planner = planner.within(1.0)
    found = least_latency(planner, {}, corrections=planner.uncorrected, keeps=keeps)
    assert found <= 0.9 + 0.005
    assert keeps(planner.within(found).solve({}, margin=0.0).plan)
    for percent in range(80, round(100 * found) - 1):
        try:
            plan = planner.within(percent / 100).solve({}, margin=0.0).plan
        except BudgetInfeasibleError:
            continue
        assert not keeps(plan)


def test_a_lower_floor_is_faster(planner):
    def found(share):
        most = planner.table_loss(planner.within(0.86).solve({}, margin=0.0).plan)
        return least_latency(
            planner.within(1.0),
            {},
            corrections=planner.uncorrected,
            keeps=lambda plan: planner.table_loss(plan) <= share * most,
        )

    assert found(1.0) < found(0.7) < found(0.5)


def test_no_latency_keeps_what_no_plan_keeps(planner):
    assert (
        least_latency(planner, {}, corrections=planner.uncorrected, keeps=lambda plan: False)
        is None
    )


@pytest.mark.parametrize(
    ("plan", "predicted", "built"),
    [
        ({"a": 2}, 0.5, True),
        ({"a": 2}, 0.58, False),  # within the interval of the fastest one
        ({"a": 1}, 0.5, False),  # known
    ],
)
def test_what_is_not_surely_faster_is_not_built(plan, predicted, built):
    def measured(plan, ratio):
        judged = SimpleNamespace(ratio=ratio, ratio_low=ratio - 0.03, ratio_high=ratio + 0.03)
        return SimpleNamespace(allocation=SimpleNamespace(plan=plan), judged=judged)

    network = SimpleNamespace(predict=lambda plan: SimpleNamespace(ratio=predicted))
    network.corrected = lambda corrections: network
    nothing = dict.fromkeys(
        ("compression", "builder", "machine", "networks", "workspace", "rounds", "floor")
    )
    loop = FloorLoop(planner=SimpleNamespace(network=network), **nothing)
    rounds = [measured({"a": 1}, 0.6), measured({"a": 0}, 0.7)]
    assert loop.promises_more(SimpleNamespace(plan=plan), (), than=rounds) is built


@pytest.mark.parametrize(
    ("plan", "dtype", "wanted"),
    [
        ({}, "fp32", Verdict.MET),
        ({"a": DENSE}, "fp32", Verdict.MET),
        ({"a": low_rank(8)}, "fp32", Verdict.UNDECIDED),
        ({}, "bf16", Verdict.UNDECIDED),
    ],
)
def test_the_dense_model_is_not_slower_than_itself(plan, dtype, wanted):
    timed = MeasuredPass(
        name="prefill",
        count=1,
        latency_s=1.01,
        dense_latency_s=1.0,
        ratio=1.01,
        ratio_low=0.97,
        ratio_high=1.05,
    )
    one = Round(
        allocation=SimpleNamespace(plan=plan),
        network=SimpleNamespace(dtype=dtype, weight_dtype="fp32"),
        measured=Measured(passes=(timed,)),
        builds={},
    )
    parts = dict.fromkeys(FloorLoop.__dataclass_fields__)
    planner = SimpleNamespace(limits_latency=False, limit_ratio=lambda seconds: None)
    assert FloorLoop(**{**parts, "planner": planner}).verdict(one) is wanted


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return small_home(tmp_path_factory.mktemp("floor"))


@pytest.mark.slow
@pytest.mark.duration(60)
class TestTunings:
    def test_the_fastest_plan_that_keeps_the_floor_is_handed_out(self, home):
        result = tune_small(home, "floor", quality_floor="1.2x")
        record = result.record
        assert record.budget == {"quality": "1.2x"}
        assert record.keeps_floor
        assert record.quality.compressed <= 1.2 * record.quality.dense
        assert record.pareto
        assert record.exit_code in (0, 5)

    @pytest.mark.parametrize("references", [True, False])
    def test_where_nothing_is_gained_the_dense_model_is_handed_out(
        self, home, monkeypatch, references
    ):
        """On a processor where no measurement tells a plan from the dense model."""
        verdict = ClosedLoop.verdict

        def undecided(loop, outcome):
            return verdict(loop, outcome) if outcome.is_dense else Verdict.UNDECIDED

        monkeypatch.setattr(ClosedLoop, "verdict", undecided)
        given = {"quality_floor": "1.2x", "references": references}
        record = tune_small(home, f"nothing {references}", **given).record
        assert record.is_dense
        assert record.verdict is Verdict.MET
        assert record.exit_code == 0
        assert record.quality.compressed == record.quality.dense
        assert record.solver.name == "dense"
        assert record.compared[0].handed_out

    def test_a_floor_that_no_plan_keeps_is_refused(self, home):
        with pytest.raises(BudgetInfeasibleError) as caught:
            tune_small(home, "none", quality_floor="0.9x")
        assert caught.value.exit_code == 3
        assert "quality 0.9x was requested and the best plan has perplexity" in str(caught.value)

    def test_budgets_that_contradict_the_floor_name_the_latency_it_takes(self, home):
        with pytest.raises(AutotuneError, match=r"the best plan within the other budgets has"):
            tune_small(home, "both", quality_floor="1.0001x", params_budget="0.8x")

    def test_both_hold_together(self, home):
        result = tune_small(home, "together", quality_floor="2x", latency_budget="1s")
        assert result.record.keeps_floor
        assert math.isclose(result.record.limit_ratio, 1.0 / result.record.dense_latency_s)
