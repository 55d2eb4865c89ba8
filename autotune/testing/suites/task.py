"""Tests of the contract of `autotune.compress.tasks.base.Task`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autotune.compress.tasks.base import MASK, Batch, Task
from autotune.core.workload import Workload

_DRAWS = 2000


class TaskSuite:
    """Give the fixtures `task` and `model`: a small one, frozen and in evaluation mode.

    `batches` are two random batches of `workload`; give others if the model takes other inputs.
    """

    workload = Workload(batch_size=3, sequence_length=8)

    @pytest.fixture
    def task(self) -> Task:
        """The task under test, which a subclass provides."""
        raise NotImplementedError("give a fixture named task")

    @pytest.fixture
    def model(self) -> nn.Module:
        """A small model of the task."""
        raise NotImplementedError("give a fixture named model")

    @pytest.fixture
    def batches(self, task: Task, model: nn.Module) -> list[Batch]:
        """The example inputs, and the same in another order."""
        first = task.example_inputs(model, self.workload)
        return [first, {name: value.flip(0, -1) for name, value in first.items()}]

    @pytest.fixture(autouse=True)
    def _the_model_is_left_as_it_was(self, model: nn.Module) -> Iterator[None]:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        yield
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert not model.training
        assert not any(module._forward_hooks for module in model.modules())

    def test_example_inputs_have_the_shape_of_the_workload(
        self, task: Task, model: nn.Module
    ) -> None:
        """`example_inputs` are tensors (batch, …) that the model takes, the same each time."""
        first, second = (task.example_inputs(model, self.workload) for _ in range(2))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert all(len(value) == self.workload.batch_size for value in first.values())

    def test_the_output_is_one_row_per_item_of_the_batch(
        self, task: Task, model: nn.Module, batches: Sequence[Batch]
    ) -> None:
        """`output` is a finite tensor (batch, …), and the same each time."""
        for batch in batches:
            first, second = task.output(model, batch), task.output(model, batch)
            assert len(first) == len(next(iter(batch.values())))
            assert torch.isfinite(first).all()
            assert torch.equal(first, second)

    def test_the_output_is_differentiable(
        self, task: Task, model: nn.Module, batches: Sequence[Batch]
    ) -> None:
        """Gradients of the output reach the model's parameters."""
        trained = copy.deepcopy(model).requires_grad_(True)
        task.output(trained, batches[0]).float().square().sum().backward()
        grads = [p.grad for p in trained.parameters() if p.grad is not None]
        assert all(torch.isfinite(grad).all() for grad in grads)
        assert any(bool(grad.any()) for grad in grads)

    def test_curvature_signals_have_the_curvature_of_the_loss(
        self, task: Task, model: nn.Module, batches: Sequence[Batch]
    ) -> None:
        """E[(g·v)²] is vᵀHv, with H the Gauss–Newton matrix of `loss` summed over the batch.

        At the dense model H is the loss's own Hessian in the output. v is a random direction on
        those elements of the output that the loss depends on.
        """
        batch, generator = batches[0], torch.Generator().manual_seed(0)
        output = task.output(model, batch).detach().float().requires_grad_(True)
        reference = task.reduce(output, batch).detach()
        moved = (output + torch.randn(output.shape, generator=generator)).detach()
        moved.requires_grad_(True)
        (slope,) = torch.autograd.grad(task.loss(moved, reference, batch=batch)[0], moved)
        direction = torch.randn(output.shape, generator=generator) * (slope != 0)
        summed, _ = task.loss(output, reference, batch=batch)
        (slope,) = torch.autograd.grad(summed, output, create_graph=True)
        (bent,) = torch.autograd.grad((slope * direction).sum(), output)
        squares: list[float] = []
        while len(squares) < _DRAWS:
            for signal in task.curvature_signals(output, batch, generator=generator):
                (gradient,) = torch.autograd.grad(signal, output, retain_graph=True)
                squares.append(float((gradient * direction).sum()) ** 2)
        expected = float((bent * direction).sum())
        assert expected > 0
        # Squares of a nearly normal variable: their mean is off by sqrt(2 / draws), 3 %.
        assert sum(squares) / len(squares) == pytest.approx(expected, rel=0.15)

    def test_the_loss_is_a_sum(
        self, task: Task, model: nn.Module, batches: Sequence[Batch]
    ) -> None:
        """Sum and count of a batch are those of its parts added up; the sum is differentiable."""
        batch = batches[0]
        output = task.output(model, batch)
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        other = (output + 0.1 * noise).requires_grad_(True)
        reference = task.reduce(output, batch)
        summed, count = task.loss(other, reference, batch=batch)
        assert summed.ndim == 0
        assert torch.autograd.grad(summed, other)[0].any()
        parts = []
        for row in range(len(output)):
            one = slice(row, row + 1)
            alone = {name: value[one] for name, value in batch.items()}
            parts.append(task.loss(other[one], reference[one], batch=alone))
        assert float(summed.detach()) == pytest.approx(
            sum(float(s.detach()) for s, _ in parts), rel=1e-4
        )
        assert count == sum(number for _, number in parts) > 0
        assert task.items(output, batch) >= count

    def test_padding_counts_for_nothing(
        self, task: Task, model: nn.Module, batches: Sequence[Batch]
    ) -> None:
        """Tokens that the mask leaves out change neither sum, nor count, nor items."""
        batch = batches[0]
        if MASK not in batch:
            pytest.skip("the inputs have no mask")
        size = batch[MASK].shape
        longer = {
            name: functional.pad(value, (0, 3)) if value.shape == size else value
            for name, value in batch.items()
        }
        (plain, count), (padded, same) = (
            self._own_loss(task, model, batch=b) for b in (batch, longer)
        )
        assert same == count
        assert padded == pytest.approx(plain, rel=1e-3, abs=1e-4)
        items = [task.items(task.output(model, each), each) for each in (batch, longer)]
        assert items[0] == items[1]

    def test_references_are_the_dense_models_own(
        self, task: Task, model: nn.Module, batches: Sequence[Batch]
    ) -> None:
        """One reference per batch, None where none is needed; against it dense loses nothing."""
        references = task.references(model, batches)
        assert len(references) == len(batches)
        assert all((found is not None) == task.needs_reference for found in references)
        found = task.losses(model, batches, references=references)
        for (ours, count), batch in zip(found, batches, strict=True):
            own, expected = self._own_loss(task, model, batch=batch)
            assert ours == pytest.approx(own, abs=1e-4)
            assert count == expected
            if task.needs_reference:
                assert ours == pytest.approx(0.0, abs=1e-4 * count)

    def test_the_mean_loss_is_sum_over_count(
        self, task: Task, model: nn.Module, batches: Sequence[Batch]
    ) -> None:
        """`mean_loss` weighs batches by their counts; a damaged model's loss differs."""
        damaged = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in damaged.parameters():
                parameter.mul_(0.7)
        references = task.references(model, batches)
        found = task.losses(damaged, batches, references=references)
        mean = task.mean_loss(damaged, batches, references=references)
        assert mean == pytest.approx(sum(s for s, _ in found) / sum(c for _, c in found))
        assert mean != pytest.approx(
            task.mean_loss(model, batches, references=references), abs=1e-6
        )

    def test_the_figure_is_monotone_in_the_mean_loss(self, task: Task) -> None:
        """A higher mean loss is a worse figure, in the sense of `higher_is_better`."""
        figures = [task.figure(loss / 10) for loss in range(20)]
        for better, worse in pairwise(figures):
            assert (better > worse) if task.higher_is_better else (better < worse)

    def test_the_protocol_names_the_metric(self, task: Task, batches: Sequence[Batch]) -> None:
        """`protocol` is one line that says how the figure was obtained."""
        assert task.metric in task.protocol(batches)
        assert "\n" not in task.protocol(batches)
        assert task.output_name

    def _own_loss(self, task: Task, model: nn.Module, *, batch: Batch) -> tuple[float, int]:
        output: Tensor = task.output(model, batch)
        value, count = task.loss(output, task.reduce(output, batch), batch=batch)
        return float(value), count
