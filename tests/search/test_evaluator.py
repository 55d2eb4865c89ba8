"""True losses in processes of their own: the same numbers, and nothing lost when one dies."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import scipy.stats
import torch
from safetensors.torch import save_file

from autotune.compress.factors import FactorStore, build_factor_store
from autotune.compress.metrics import make_metric
from autotune.compress.sites import count_tokens, find_sites
from autotune.core.forms import low_rank
from autotune.core.progress import no_progress
from autotune.core.types import Workload
from autotune.search import evaluator
from autotune.search.evaluator import Evaluators, EvaluatorSetup, JudgingProcess
from autotune.search.losses import PlanLosses, SearchSubject
from tests.autotune.service.processes import descendants, kill
from tests.conftest import tiny_model, tiny_task
from tests.waiting import wait_for

pytestmark = pytest.mark.duration(40)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny model on disk, its factors, its search batches, and some plans."""
    folder = tmp_path_factory.mktemp("world")
    model, task = tiny_model("llama"), tiny_task("llama")
    model.requires_grad_(False)
    model.save_pretrained(folder / "model")
    inputs = task.example_inputs(model, Workload(batch_size=2, sequence_length=16))
    sites = count_tokens(model, find_sites(model), inputs=inputs)
    path = folder / "factors.safetensors"
    build_factor_store(
        model,
        sites.sites,
        path=path,
        metric=make_metric("weight"),
        statistics=None,
        joint=sites.joint,
    )
    generator = torch.Generator().manual_seed(0)
    batches = [
        {
            "input_ids": torch.randint(0, 101, (2, 16), generator=generator),
            "attention_mask": torch.ones(2, 16, dtype=torch.long),
        }
        for _ in range(3)
    ]
    tensors = {f"{i}:{k}": v for i, batch in enumerate(batches) for k, v in batch.items()}
    save_file(tensors, folder / "batches.safetensors")
    setup = EvaluatorSetup(
        model=str(folder / "model"),
        task="causal-lm",
        sites=sites.sites,
        joint=sites.joint,
        factors=str(path),
        storage="fp32",
        batches=str(folder / "batches.safetensors"),
        dtype="fp32",
    )
    plans = [{site.name: low_rank(8)} for site in sites.sites[:4]]
    plans += [{sites.joint[0].name: low_rank(16)}, {}]
    subject = SearchSubject(
        model=model,
        task=task,
        sites=sites.sites,
        joint=sites.joint,
        factors=FactorStore(path),
        batches=batches,
    )

    def losses(judges=None, folder=None):
        return PlanLosses(subject, folder=folder, judges=judges)

    return setup, plans, losses


def judging():
    """pids of the processes that this one lets judge."""
    found = descendants(os.getpid()).items()
    return [pid for pid, command in found if "autotune.search.evaluator" in command]


def test_a_setup_travels_as_json(world):
    setup, *_ = world
    again = EvaluatorSetup.from_json(json.loads(json.dumps(setup.to_json())))
    assert (tuple(again.sites), tuple(again.joint)) == (setup.sites, setup.joint)


@pytest.mark.slow
def test_processes_run_the_network_in_the_same_dtype(world):
    setup, plans, plan_losses = world
    alone = plan_losses()
    alone.subject = replace(alone.subject, dtype="bf16")
    with Evaluators(replace(setup, dtype="bf16"), 1, threads=1) as evaluators:
        answers = dict(evaluators.losses(plans[:2]))
    for index, plan in enumerate(plans[:2]):
        sums = [total for total, _ in alone.losses(plan)]
        assert [total for total, _ in answers[index]] == pytest.approx(sums, rel=1e-3)
        native = [total for total, _ in plan_losses().losses(plan)]
        assert sums != pytest.approx(native, rel=1e-7)


def test_processes_find_the_same_losses(world, tmp_path):
    setup, plans, plan_losses = world
    alone = plan_losses()
    heard = []
    with Evaluators(setup, 2, threads=1) as evaluators:
        answers = dict(evaluators.losses(plans))  # nobody but the processes answers here
        together = plan_losses(evaluators, tmp_path)
        together.judge(plans, lambda done, total: heard.append((done, total)))
    assert set(answers) == set(range(len(plans)))
    for index, plan in enumerate(plans):
        for (ours, count), (theirs, tokens) in zip(alone.losses(plan), answers[index], strict=True):
            assert theirs == pytest.approx(ours, rel=1e-6)
            assert tokens == count
    assert heard[-1] == (len(plans), len(plans))
    for plan in plans:
        assert together.true_loss(plan) == pytest.approx(alone.true_loss(plan), rel=1e-6)
    recalled = plan_losses(None, tmp_path)
    assert recalled._losses == together._losses
    assert together.true_loss(plans[0]) != together.true_loss(plans[-1])


@pytest.mark.slow
def test_a_process_that_dies_costs_nothing(world):
    setup, plans, _ = world
    with Evaluators(setup, 2, threads=1) as evaluators:
        answers = evaluators.losses(plans)
        index, _ = next(answers)
        kill(judging()[0])
        assert sorted([index, *(i for i, _ in answers)]) == list(range(len(plans)))
        for pid in judging():
            kill(pid)
        fresh = [{**plan, "model.layers.1.mlp.down_proj": low_rank(8)} for plan in plans]
        assert {i for i, _ in evaluators.losses(fresh)} == set(range(len(plans)))


@pytest.mark.slow
def test_threads_that_ask_at_once_get_their_own_answers(world):
    setup, plans, plan_losses = world
    alone = plan_losses()
    with Evaluators(setup, 2, threads=1) as evaluators:
        together = plan_losses(evaluators)
        assert together.places == 2

        def loss(plan):
            together.judge([plan], least=1)
            return together.true_loss(plan)

        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(loss, [*plans, *plans]))
        assert len(judging()) == 2
    for loss, plan in zip(found, [*plans, *plans], strict=True):
        assert loss == pytest.approx(alone.true_loss(plan), rel=1e-6)


@pytest.mark.slow
def test_a_closed_pool_leaves_no_process(world):
    setup, plans, _ = world
    with Evaluators(setup, 2, threads=1) as evaluators:
        answers = evaluators.losses(plans)
        next(answers)  # and nobody asks for the rest
    wait_for(lambda: not judging(), 60)
    assert {index for index, _ in answers} < set(range(len(plans)))  # and nobody waits for more


def test_judges_that_never_answer_are_not_waited_for_again(world, monkeypatch):
    setup, plans, plan_losses = world
    monkeypatch.setattr(evaluator, "_COMMAND", [sys.executable, "-c", "pass"])
    with Evaluators(setup, 3, threads=1) as evaluators:
        assert dict(evaluators.losses(plans)) == {}
        assert evaluators.places <= 0
        judge = plan_losses(evaluators)
        assert judge.places == 1
        assert judge.true_loss(plans[0]) == plan_losses().true_loss(plans[0])


@pytest.mark.slow
def test_an_owned_folder_goes_when_the_caller_does(world, tmp_path):
    setup, plans, _ = world
    owned = tmp_path / "owned"
    owned.mkdir()
    judge = JudgingProcess(setup, 1, owned=str(owned))
    assert judge.ask(plans[0]) is not None
    assert owned.is_dir()
    judge._child.close_input()  # as when its caller was killed
    assert judge._child.wait(60) == 0
    judge.close()
    assert not owned.exists()
    judge.close()


def test_an_answer_that_is_none_holds_nobody_up(world, tmp_path, monkeypatch):
    """A process that speaks of something else is as good as dead; the caller judges."""
    setup, plans, _ = world
    code = """import sys\nfor line in sys.stdin: print('{"other": 1}', flush=True)"""
    talk = [sys.executable, "-c", code]
    monkeypatch.setattr(evaluator, "_COMMAND", talk)
    with Evaluators(setup, 2, threads=1) as evaluators:
        assert dict(evaluators.losses(plans)) == {}


@pytest.mark.slow
def test_where_no_process_can_run_the_caller_judges(world, tmp_path):
    setup, plans, plan_losses = world
    broken = EvaluatorSetup.from_json({**setup.to_json(), "factors": str(tmp_path / "missing")})
    with Evaluators(broken, 2, threads=1) as evaluators:
        together = plan_losses(evaluators)
        together.judge(plans, no_progress)
        assert len(together._losses) == len(plans)


def test_surely_better_is_more_than_one_standard_error_of_the_paired_differences(world):
    *_, plan_losses = world
    judge = plan_losses()
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        a, b = (torch.randn(5, generator=generator, dtype=torch.float64) + 3 for _ in range(2))
        count = 32
        pairs = [[[float(v) * count, count] for v in values] for values in (a, b)]
        judge._losses = dict(zip(("a", "b"), pairs, strict=True))
        judge.losses = lambda plan: judge._losses[plan]
        test = scipy.stats.ttest_rel(b, a)
        assert judge.surely_better("a", "b") is bool(test.statistic > 1)
        assert not judge.surely_better("a", "a")
