"""What a model is for: its output, its curvature and its quality, behind one contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from autotune.core.errors import ModelError
from autotune.core.types import Workload

Batch = Mapping[str, Tensor]
MASK = "attention_mask"
NOTHING_JUDGED = (
    "the calibration data hold no token that the model is judged by: a language model needs "
    "sequences of 2 tokens or more, a masked one its mask token in them; give other data"
)
_IMAGE_SIZE = 224  # pixels, of networks that take images of any size


class Task(ABC):
    """One kind of model.

    Contract (`autotune.testing.suites.task` checks it):
    - `output` is the tensor that is exported and compared, (batch, …); it is differentiable.
    - `curvature_signals` yields scalars whose gradients g at a site's output satisfy
      E[g gᵀ] = Gauss–Newton (Fisher) block of `loss` summed over the batch.
    - `loss` returns (sum, count), which add over the rows of a batch: the mean over data is what
      the error table predicts the rise of, and what the search minimises. Padding counts for
      nothing.
    - `figure` is what a person reads: monotone in the mean loss, in the direction of
      `higher_is_better`.
    - A task leaves the model as it is and holds no state between calls.
    """

    name: str
    output_name: str
    metric: str
    higher_is_better: bool
    # The class of transformers that loads such models.
    auto_class: str = "AutoModel"
    # What the hub calls the use of such models.
    pipeline_tag: str = ""
    # How the architectures end that config.json names for such models.
    architectures: tuple[str, ...] = ()
    # Whether the model generates: it has decode steps, a KV cache and causal attention.
    has_decode: bool = False
    # Whether text is one stream, cut into windows; else every line is a document.
    reads_windows: bool = False
    # The metric where none is asked for: by what the mean loss averages over, tokens or whole
    # sequences (docs/methods/default.md).
    default_metric: str = "kfac-seq"
    # Sequences for statistics, search and the quality figure, unless the request sets them.
    default_samples: tuple[int, int, int] = (1024, 128, 256)
    # Whether some tokens of a text are replaced by the mask token, which the model then predicts.
    masks_tokens: bool = False

    @classmethod
    def has_type(cls, config: Any) -> bool:
        """Whether models of this type are such models where no known architecture says so."""
        del config
        return False

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """The task as the model's folder has it set up."""
        del folder
        return cls()

    @property
    def setup(self) -> Mapping[str, Any]:
        """What `of_folder` read besides the name, as JSON: results of other set-ups differ."""
        return {}

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model that this task cannot judge.

        Raises:
            ModelError: with the reason and what to change.
        """
        del model

    @abstractmethod
    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's output for one batch, (batch, …)."""

    def plain(self, model: nn.Module, batch: Batch) -> Tensor:
        """The output, (batch, …), of the plain call `model(**batch)`, to compare graphs with.

        A task whose `output` calls the model in another way overrides it.
        """
        return self.output(model, batch)

    @abstractmethod
    def curvature_signals(
        self, output: Tensor, batch: Batch, *, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Scalars, shape (), to differentiate one at a time; their gradients are averaged."""

    def items(self, output: Tensor, batch: Batch) -> int:
        """How many items of the batch the mean loss averages over: sequences, unless overridden."""
        del batch
        return output.shape[0]

    @abstractmethod
    def loss(self, output: Tensor, reference: Tensor, *, batch: Batch) -> tuple[Tensor, int]:
        """Summed loss, shape (), of `output` against the dense model's `reference`; and its count.

        The loss is differentiable in `output`, (batch, …); `reference` is as `reduce` returns it.
        """

    @abstractmethod
    def figure(self, mean_loss: float) -> float:
        """The quality figure of a mean loss in units of `scale`."""

    def scale(self, references: Sequence[Tensor | None], batches: Sequence[Batch]) -> float:
        """The unit of the mean loss in `figure`, from the dense model's outputs by batch."""
        del references, batches
        return 1.0

    def judged(self, output: Tensor, reference: Tensor, *, batch: Batch) -> Tensor:
        """What is judged of a batch, (items, parts, values); `reference` is the reduced `output`.

        Every part must differ between the items of all batches: where it is the same for any
        input, no plan could change it.
        """
        del output, batch
        return reference.flatten(0, -2).unsqueeze(1)

    def fitted(self, model: nn.Module, workload: Workload) -> Workload:
        """The workload as `example_inputs` follows it: the same, or no longer than inputs can be.

        Only for models whose users do not choose the length, as that of a caption. Others are
        refused where they have too few positions.
        """
        del model
        return workload

    @abstractmethod
    def example_inputs(self, model: nn.Module, workload: Workload) -> dict[str, Tensor]:
        """Random inputs by name, (batch, …), for tracing, counting and timing."""

    def protocol(self, batches: Sequence[Batch]) -> str:
        """How the quality figure was obtained, to print beside it."""
        items = sum(next(iter(batch.values())).shape[0] for batch in batches)
        return f"{self.metric} over {items} held-out sequences"

    @torch.no_grad()
    def mean_loss(
        self, model: nn.Module, batches: Sequence[Batch], *, references: Sequence[Tensor | None]
    ) -> float:
        """Mean loss over `batches`; a missing reference means the model is its own."""
        sums, counts = zip(*self.losses(model, batches, references=references), strict=True)
        return float(sum(sums) / max(sum(counts), 1))

    @torch.no_grad()
    def losses(
        self, model: nn.Module, batches: Sequence[Batch], *, references: Sequence[Tensor | None]
    ) -> list[tuple[float, int]]:
        """(summed loss, count) of every batch, in their order."""
        found = []
        for batch, reference in zip(batches, references, strict=True):
            output = self.output(model, batch).float()
            value, items = self.loss(
                output, output if reference is None else reference, batch=batch
            )
            found.append((float(value), items))
        return found

    needs_reference: bool = True

    @torch.no_grad()
    def references(self, model: nn.Module, batches: Sequence[Batch]) -> list[Tensor | None]:
        """The dense model's reduced output for each batch; None where the loss needs none."""
        if not self.needs_reference:
            return [None] * len(batches)
        return [self.reduce(self.output(model, batch), batch) for batch in batches]

    def neighbour_overlap(self, found: Sequence[Tensor], dense: Sequence[Tensor]) -> float | None:
        """By how much the nearest neighbours of the items agree, of reduced outputs by batch.

        None where the outputs are not compared with each other in use.
        """
        del found, dense
        return None

    def reduce(self, output: Tensor, batch: Batch) -> Tensor:
        """The part of the output, (batch, …), that the loss compares, small enough to keep."""
        del batch
        return output


def text_inputs(vocabulary: int, workload: Workload) -> dict[str, Tensor]:
    """Random token ids and a mask of ones, (batch, sequence), with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    shape = (workload.batch_size, workload.sequence_length)
    ids = torch.randint(0, vocabulary, shape, generator=generator)
    return {"input_ids": ids, MASK: torch.ones_like(ids)}


def pixel_inputs(config: Any, workload: Workload) -> dict[str, Tensor]:
    """Random pixel values (batch, channels, height, width), with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    size = getattr(config, "image_size", None) or _IMAGE_SIZE
    height, width = size if isinstance(size, Sequence) else (size, size)
    channels = getattr(config, "num_channels", 3)
    shape = (workload.batch_size, channels, height, width)
    return {"pixel_values": torch.randn(shape, generator=generator)}


def model_inputs(model: nn.Module, workload: Workload) -> dict[str, Tensor]:
    """Random token ids and mask (batch, sequence), or pixels where they are the main input."""
    config: Any = model.config
    if getattr(model, "main_input_name", "input_ids") == "pixel_values":
        return pixel_inputs(config, workload)
    return text_inputs(vocabulary_size(config), workload)


def vocabulary_size(config: Any) -> int:
    """The number of tokens of a text model.

    Raises:
        ModelError: it takes no token ids.
    """
    found: int | None = getattr(config.get_text_config(), "vocab_size", None)
    if found is None:
        raise ModelError(f"models of type {config.model_type} take no token ids; give another one")
    return found
