"""The suite for every allocator, then each rule's own identities (docs/methods)."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from autotune.compress.lowrank import dense_weight
from autotune.core.errors import UsageError
from autotune.core.forms import DENSE, low_rank
from autotune.core.layers import Site
from autotune.search.allocators import ALLOCATORS, make_allocator
from autotune.search.allocators.base import blocks_of
from autotune.search.allocators.dipsvd import DipsvdHeuristic, exact_mean
from autotune.search.allocators.dobi import Dobi, interpolate
from autotune.search.allocators.erc_plc import ErcPlc
from autotune.search.allocators.flar import Flar, smallest_meeting, weight_cosines
from autotune.search.allocators.pgsvd import Pgsvd, rank_of_error
from autotune.testing.examples import example_evidence, example_question
from autotune.testing.suites.allocator import AllocatorSuite

QUICK = {"dipsvd-bayes": "dipsvd-bayes:trials=4", "dobi": "dobi:steps=3,save_every=2"}


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    return example_evidence(tmp_path_factory.mktemp("factors"))


def question(evidence, resources=("latency",), share=0.7):
    return example_question(evidence, resources, share=share)


class TestAllocators(AllocatorSuite):
    @pytest.fixture(params=ALLOCATORS)
    def make_allocator(self, request):
        return lambda: make_allocator(QUICK.get(request.param, request.param))


def test_unknown_names_and_options_are_refused():
    with pytest.raises(UsageError, match=r"known are exact\+optuna, exact, uniform"):
        make_allocator("magic")
    for spec in ("pgsvd:profile=x", "flar:criterion=x", "dipsvd-heuristic:sign=x"):
        with pytest.raises(UsageError, match="must be one of"):
            make_allocator(spec)
    with pytest.raises(UsageError, match=r"'\(' is not a regular expression"):
        make_allocator("pgsvd:groups=(")
    with pytest.raises(UsageError, match="unknown option 'depth'; known are beta, sign"):
        make_allocator("dipsvd-heuristic:depth=3")
    with pytest.raises(UsageError, match="write options as"):
        make_allocator("dobi:steps")
    assert make_allocator("dobi:steps=3,learning_rate=0.1,form=taylor").steps == 3


def test_pgsvds_rank_is_the_smallest_within_epsilon():
    sigma = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    total = float(sigma.square().sum()) ** 0.5
    for epsilon in np.linspace(0.01, 0.99, 50):
        rank = rank_of_error(sigma, epsilon)
        assert float(sigma[rank:].square().sum()) ** 0.5 / total <= epsilon
        assert rank == 1 or float(sigma[rank - 1 :].square().sum()) ** 0.5 / total > epsilon
    ranks = [rank_of_error(sigma, e) for e in np.linspace(0, 1, 30)]
    assert ranks == sorted(ranks, reverse=True)


def test_pgsvds_towers_get_their_own_epsilon(evidence):
    asked = question(evidence, ("parameters",), 0.6)
    one = Pgsvd().allocate(asked)
    two = Pgsvd(groups=["mlp"]).allocate(asked)
    assert make_allocator("pgsvd:groups=mlp").allocate(asked) == two
    assert make_allocator("pgsvd:groups=mlp+attn").groups == ("mlp", "attn")
    assert make_allocator("pgsvd:groups=mlp+").groups == ("mlp",)
    assert two.loss <= one.loss
    assert Pgsvd(profile="metric").allocate(asked).plan != one.plan
    assert asked.fits(Pgsvd(alpha=True).allocate(asked))


def test_flars_binary_search_against_the_whole_grid(evidence):
    asked = question(evidence, ("parameters",), 0.6)
    for criterion in ("fast", "precise"):
        fast = Flar(criterion).allocate(asked)
        slow = Flar(criterion, whole_grid=True).allocate(asked)
        # The criterion is nearly monotone; where it is not, bisection may stop above.
        pairs = [(fast.plan[n], slow.plan[n]) for n in fast.plan]
        assert sum(a == b for a, b in pairs) >= len(pairs) * 0.8
    wavy = [5.0, 1.0, 3.0, 0.5]
    for whole_grid, rank in ((True, 2), (False, 4)):
        found = smallest_meeting(
            [1, 2, 3, 4], lambda rank: wavy[rank - 1] <= 1, whole_grid=whole_grid
        )
        assert found == low_rank(rank)
    assert smallest_meeting([1, 2], lambda r: False, whole_grid=False) == DENSE


def test_flars_cosines_are_the_weights(evidence):
    asked, site = question(evidence), evidence.subject.sites[4]
    cosines = weight_cosines(asked, site)
    weight = dense_weight(evidence.subject.model.get_submodule(site.name)).double()
    for rank in (1, 7, len(cosines)):
        ((_, (up, down)),) = evidence.subject.factors.plan({site: low_rank(rank)})
        ours = up.double() @ down.double()
        expected = float((weight * ours).sum() / (weight.norm() * ours.norm()))
        assert float(cosines[rank - 1]) == pytest.approx(expected, abs=1e-9)


def test_flar_leaves_a_layer_dense_that_would_be_slower(evidence):
    asked = question(evidence, ("parameters",), 0.8)
    first = evidence.subject.sites[0].name
    slow = dataclasses.replace(
        asked, latency_ratio=lambda site, form: 1.5 if site.name == first else 0.5
    )
    assert Flar().allocate(slow).plan[first] == DENSE


def test_ercs_first_blocks_stay_dense_and_k_is_the_best_tried(evidence):
    asked = question(evidence, ("parameters",), 0.85)
    allocation = ErcPlc(step=1).allocate(asked)
    forms = [
        [allocation.plan[s.name] for s in sites]
        for sites in blocks_of(evidence.subject.sites).values()
    ]
    touched = [any(form != DENSE for form in block) for block in forms]
    assert touched == sorted(touched)
    assert touched[-1]
    with evidence.subject.applied(allocation.plan):
        from autotune.compress.checkpoint import low_rank_layers

        factorized = {name for name, form in allocation.plan.items() if form != DENSE}
        assert set(low_rank_layers(evidence.subject.model)) == factorized


def test_dipsvds_mean_is_exact_after_clipping():
    rng = np.random.default_rng(0)
    for mean in (0.35, 0.5, 0.8, 0.95):
        for _ in range(20):
            keeps = exact_mean(np.exp(rng.normal(size=12)), mean)
            assert keeps.mean() == pytest.approx(mean, abs=1e-9)
            assert keeps.min() >= 0.3 - 1e-12
            assert keeps.max() <= 0.98 + 1e-12
    weights = np.array([1.0, 2.0, 3.0])
    assert exact_mean(weights, 0.5) == pytest.approx(np.clip(weights / 4, 0.3, 0.98), abs=0.05)


def test_dipsvds_signs_pull_apart(evidence):
    blocks = [b for b in blocks_of(evidence.subject.sites) if b is not None]
    code = DipsvdHeuristic(sign="code").weights(evidence, blocks)
    paper = DipsvdHeuristic(sign="paper").weights(evidence, blocks)
    if code[0] != code[1] and paper[0] != paper[1]:
        assert (code[0] > code[1]) != (paper[0] > paper[1])


def test_sensitivity_is_the_gradients_norm(evidence):
    """Against autograd on the summed cross-entropy with the same sampled labels."""
    site = evidence.subject.sites[2]
    model, task = evidence.subject.model, evidence.subject.task
    weight = model.get_submodule(site.name).weight
    weight.requires_grad_(True)
    generator = torch.Generator().manual_seed(evidence.seed)
    total = 0
    for batch in evidence.subject.batches:
        (signal,) = task.curvature_signals(task.output(model, batch), batch, generator=generator)
        total = total + signal
    (gradient,) = torch.autograd.grad(total, weight)
    weight.requires_grad_(False)
    expected = float(gradient.norm() / weight.norm())
    assert evidence.sensitivity[site.name] == pytest.approx(expected, rel=1e-4)


def test_dobis_state_survives_and_goes_on(evidence, tmp_path):
    asked = question(evidence)
    evidence.folder = tmp_path
    try:
        whole = Dobi(steps=4, save_every=2).train(asked)
        (state,) = tmp_path.glob("dobi-*.safetensors")
        # What a killed run leaves: the state after step 2 of 4.
        state.unlink()
        stopped = Dobi(steps=4, save_every=2)
        stopped_steps = itertools.count()

        def kill(done, total):
            if next(stopped_steps) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stopped.train(dataclasses.replace(asked, progress=kill))
        assert state.exists()
        assert Dobi(steps=4, save_every=2).train(asked) == pytest.approx(whole, rel=1e-5)
    finally:
        evidence.folder = None


def test_dobis_cost_is_linear_between_candidates():
    ranks, costs = torch.tensor([0.0, 4.0, 8.0]), torch.tensor([0.0, 2.0, 3.0]).double()
    k = torch.tensor(6.0, requires_grad=True)
    value = interpolate(k, (ranks, costs))
    value.backward()
    assert value.item() == 2.5
    assert float(k.grad) == 0.25


def test_floor_never_gives_zero_or_more_than_asked(evidence):
    asked = question(evidence)
    for site in evidence.subject.sites:
        ranks = asked.ranks(site)
        assert asked.floor(site, 0.3) == low_rank(ranks[0])
        assert asked.floor(site, ranks[1] + 0.5) == low_rank(ranks[1])
        assert asked.floor(site, 1e9) == DENSE
    strange = Site(name=evidence.subject.sites[0].name, in_features=64, out_features=64, tokens=1)
    assert asked.floor(strange, 32.0) == DENSE
