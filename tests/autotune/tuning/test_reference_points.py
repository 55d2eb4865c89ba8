"""Reference points: uniform plans, measured in the same run as what is handed out."""

import dataclasses
from types import SimpleNamespace

import pytest

from autotune.core.forms import DENSE, NATIVE, Form, low_rank
from autotune.core.layers import chosen_sites
from autotune.devices.detect import has_int8_products
from autotune.results.verdict import Verdict
from autotune.tuning.reference_points import References, references, uniform_rank
from autotune.tuning.rounds import CHOSEN
from tests.autotune.tuning.small import small_home, tune_small


def outcome(name, ratio, loss, **values):
    """A round with its measured ratio and its true loss."""
    values = {"verdict": Verdict.MET} | values
    return SimpleNamespace(
        allocation=SimpleNamespace(solver=name),
        judged=SimpleNamespace(ratio=ratio, ratio_low=ratio - 0.01, ratio_high=ratio + 0.01),
        loss=loss,
        decided=None,
        **values,
    )


def points(*, limits_latency=True, second_looks=(), floor=None):
    """What compares outcomes; a second look finds what `second_looks` hold, else the same."""
    again = {one.allocation.solver: one for one in second_looks}
    planner = SimpleNamespace(
        fits=lambda allocation: allocation.solver != "too large",
        limits_latency=limits_latency,
    )
    loop = SimpleNamespace(
        planner=planner,
        verdict=lambda one: one.verdict,
        workspace=SimpleNamespace(note=lambda text: None),
        looked_at_again=lambda one: SimpleNamespace(decided=again.get(one.allocation.solver, one)),
    )
    return References(loop=loop, loss=lambda one: one.loss, floor=floor)


FOUND = outcome("exact", 0.6, 0.1)


@pytest.mark.parametrize("limits_latency", [True, False])
def test_what_a_uniform_plan_beats_on_both_axes_is_not_handed_out(limits_latency):
    better = outcome("dense int8", 0.5, 0.05)
    assert points(limits_latency=limits_latency).instead_of(FOUND, [better]) is better


@pytest.mark.parametrize(("ratio", "loss"), [(0.5, 0.2), (0.7, 0.2), (0.7, 0.05)])
def test_what_is_worse_on_one_axis_is_not_handed_out(ratio, loss):
    other = outcome("dense int8", ratio, loss)
    assert points(limits_latency=False).instead_of(FOUND, [other]) is FOUND


def test_within_the_budget_the_lesser_loss_decides():
    other = outcome("dense int8", 0.65, 0.05)
    assert points().instead_of(FOUND, [other]) is other


def test_a_plan_that_misses_gives_way_to_one_that_holds():
    missed = outcome("exact", 0.6, 0.1, verdict=Verdict.MISSED)
    holding = outcome("dense int8", 0.5, 0.2)
    assert points().instead_of(missed, [holding]) is holding
    assert points().instead_of(holding, [missed]) is holding


def test_a_reference_point_has_one_second_look():
    looks = []
    other = outcome("dense int8", 0.5, 0.05)
    compared = points(limits_latency=False)

    def looked_at_again(one):
        looks.append(one)
        return SimpleNamespace(decided=outcome("dense int8", 0.62, 0.05))

    compared.loop.looked_at_again = looked_at_again
    assert compared.instead_of(FOUND, [other]) is FOUND
    slower = outcome("exact", 0.7, 0.1)
    assert compared.instead_of(slower, [other]).judged.ratio == 0.62
    assert looks == [other]


def test_what_is_beyond_another_budget_is_not_handed_out():
    large = outcome("too large", 0.5, 0.05)
    assert points().instead_of(FOUND, [large]) is FOUND


@pytest.mark.parametrize(
    ("ratio", "loss", "keeps", "wanted"),
    [
        (0.5, 0.2, True, True),  # faster
        (0.605, 0.05, True, True),  # no measurement tells which is faster, and it loses less
        (0.605, 0.2, True, False),
        (0.595, 0.2, True, False),
        (0.62, 0.05, True, False),
        (0.5, 0.05, False, False),  # below the floor
    ],
)
def test_the_least_latency_is_sought_as_far_as_it_was_measured(ratio, loss, keeps, wanted):
    floor = SimpleNamespace(keeps=lambda plan: keeps)
    other = outcome("dense int8", ratio, loss)
    other.allocation.plan = {}
    sought = points(limits_latency=False, floor=floor).instead_of(FOUND, [other])
    assert (sought is other) == wanted


@pytest.mark.parametrize(
    ("verdict", "dtype", "solver", "wanted"),
    [
        (Verdict.UNDECIDED, "fp32", "dense", True),
        (Verdict.MISSED, "fp32", "dense", True),
        (Verdict.MET, "fp32", "dense", False),
        (Verdict.UNDECIDED, "bf16", "dense", False),  # there is no such graph
        (Verdict.UNDECIDED, "fp32", "too large", False),
    ],
)
def test_what_is_not_surely_faster_gives_way_to_the_dense_model(verdict, dtype, solver, wanted):
    found, dense = outcome("exact", 0.99, 0.1, verdict=verdict), outcome("dense", 1.0, 0.0)
    compared = points(limits_latency=False, floor=SimpleNamespace())
    compared.loop.planner.network = SimpleNamespace(dtype=dtype, weight_dtype="fp32")
    compared.loop.planner.allocation = lambda plan, name: SimpleNamespace(solver=solver)
    compared.loop.measured_plan = lambda plan, name, brief: dense
    assert (compared.or_dense(found) is dense) == wanted
    assert points(limits_latency=False).or_dense(found) is found  # no floor was asked for
    assert points(floor=SimpleNamespace()).or_dense(found) is found


def test_a_second_look_decides():
    lucky = outcome("dense int8", 0.5, 0.05)
    really = outcome("dense int8", 0.8, 0.05, verdict=Verdict.MISSED)
    assert points(second_looks=[really]).instead_of(FOUND, [lucky]) is FOUND


def test_the_best_of_several_is_handed_out():
    others = [outcome(name, 0.5, loss) for name, loss in (("a", 0.05), ("b", 0.01), ("c", 0.2))]
    assert points().instead_of(FOUND, others) is others[1]


class OneRatio:
    """A latency model in which the parameters that are kept are the latency that is kept."""

    dtype = weight_dtype = "fp32"

    def __init__(self, sites):
        self.sites = sites

    def predict(self, plan):
        kept = sum(s.shape(plan.get(s.name, DENSE)).parameters for s in self.sites)
        return SimpleNamespace(ratio=kept / sum(s.shape().parameters for s in self.sites))


@pytest.fixture
def planner(model):
    """Errors fall with the rank; nothing else of a planner is asked for."""
    errors = {
        site.name: {low_rank(rank): 1.0 / rank for rank in range(8, 48, 8)} for site in model.single
    }
    return SimpleNamespace(
        model=SimpleNamespace(single=model.single, joint=(), precisions=(NATIVE,)),
        network=OneRatio(model.single),
        errors=errors,
        table_loss=lambda plan: sum(
            errors[name][form] for name, form in plan.items() if form in errors[name]
        ),
    )


def test_a_uniform_plan_keeps_the_same_share_everywhere(planner):
    plan = uniform_rank(planner, 0.5)
    for site in planner.model.single:
        kept = site.shape(plan[site.name]).parameters / site.shape().parameters
        assert 0 < kept <= 0.5


def test_the_reference_is_as_fast_as_what_it_is_compared_with(planner):
    (found,) = references(planner, ratio=0.7)
    assert found.name.startswith("uniform rank, ")
    assert planner.network.predict(found.plan).ratio <= 0.7
    assert references(planner, ratio=1.0) == []  # the dense model is that fast


def test_another_dtype_and_every_precision_are_referred_to(planner):
    planner.network.dtype = "bf16"
    planner.model.precisions = (NATIVE, "int8-static")
    names = [each.name for each in references(planner, ratio=1.0)]
    assert names == ["dense bf16", "dense int8-static"]


def test_layers_with_one_input_are_rounded_together(planner, model):
    rounded = Form(precision="int8-static")
    planner.model.joint = model.joint
    for site in (*model.single, *model.joint):
        planner.errors.setdefault(site.name, {})[rounded] = 0.1
    planner.model.precisions = (NATIVE, "int8-static")
    (found,) = references(planner, ratio=1.0)
    assert found.name == "dense int8-static"
    assert {site.name for site in model.joint} < found.plan.keys()
    chosen = chosen_sites((*model.single, *model.joint), found.plan)
    assert sorted(name for site, _ in chosen for name in site.layers) == sorted(
        site.name for site in model.single
    )
    assert {form for _, form in chosen} == {rounded}


@pytest.mark.slow
@pytest.mark.duration(60)
@pytest.mark.skipif(not has_int8_products(), reason="the processor has no 8-bit products")
def test_a_result_shows_what_it_was_compared_with(tmp_path):
    home = small_home(tmp_path)
    given = {"precision": "native,int8-static", "memory_budget": "0.75x", "references": True}
    result = tune_small(home, "out", allow_quality_loss=True, **given)
    points = result.record.compared
    assert [one.handed_out for one in points] == [True] + [False] * (len(points) - 1)
    assert "dense int8-static" in {one.name for one in points}
    chosen, *others = points
    assert chosen.ratio == result.record.measured_ratio
    assert chosen.quality == result.record.quality.compressed
    for one in others:
        uniform = next(iter(one.forms))
        others_like = (CHOSEN, "uniform")
        assert one.name.startswith(others_like) or uniform.endswith("int8-static")
        fits = one.name != "dense int8-static"  # embeddings are not rounded
        assert not (fits and one.ratio < chosen.ratio and one.loss < chosen.loss)
    page = (result.folder / "report.html").read_text()
    assert "Measured in this run" in page
    assert "dense int8-static" in page
    again = dataclasses.replace(result.record)
    assert type(again).from_json(again.to_json()) == again
