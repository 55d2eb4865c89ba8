"""Two towers (CLIP and its kin): both embeddings, compared with the dense model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.auto import modeling_auto as auto

from autotune.compress.positions import max_text_positions
from autotune.compress.tasks.base import Batch, pixel_inputs, text_inputs
from autotune.compress.tasks.embedding import Embedding
from autotune.core.types import Workload


class ImageText(Embedding):
    """Loss: 1 − cosine to the dense text and image embeddings. Quality: the mean cosine of both.

    Calibrated on tensors of pairs: `input_ids`, `attention_mask` and `pixel_values`.
    """

    name = "image-text"
    pipeline_tag = "zero-shot-image-classification"
    output_name = "embeddings"

    @classmethod
    def has_type(cls, config: Any) -> bool:
        """Types that compare a text with an image."""
        return config.model_type in auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """The task without options, since both towers pool by themselves."""
        del folder
        return cls()

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, 2, features): the text's embedding, then the image's."""
        found = model(**batch)
        return torch.stack([found.text_embeds, found.image_embeds], dim=1)

    def items(self, output: Tensor, batch: Batch) -> int:
        """The number of embeddings: two for every pair."""
        del batch
        return 2 * output.shape[0]

    def embed(self, output: Tensor, batch: Batch) -> Tensor:
        """Unit embeddings, (batch, 2, features)."""
        del batch
        return functional.normalize(output.float(), dim=-1)

    def judged(self, output: Tensor, reference: Tensor, *, batch: Batch) -> Tensor:
        """Both towers' embeddings, (batch, 2, features), each of which must differ."""
        del output, batch
        return reference

    def fitted(self, model: nn.Module, workload: Workload) -> Workload:
        """With at most as many tokens as the text tower takes."""
        limit = max_text_positions(model)
        tokens = workload.sequence_length if limit is None else min(workload.sequence_length, limit)
        return replace(workload, sequence_length=tokens)

    def example_inputs(self, model: nn.Module, workload: Workload) -> dict[str, Tensor]:
        """Random token ids, at most as many as the text tower takes, and random pixels."""
        config: Any = model.config
        return {
            **text_inputs(config.text_config.vocab_size, self.fitted(model, workload)),
            **pixel_inputs(config.vision_config, workload),
        }
