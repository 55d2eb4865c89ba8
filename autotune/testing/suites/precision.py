"""Tests of the contract of `autotune.compress.precisions.base.Precision`."""

from __future__ import annotations

import pytest
import torch

from autotune.compress.precisions.base import Precision
from autotune.core.forms import NATIVE, Form, low_rank, parse_form
from autotune.core.layers import LayerShape

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class PrecisionSuite:
    """Contracts of a precision; a subclass gives the fixture `precision`."""

    shape = LayerShape(tokens=1, in_features=96, out_features=64)

    @pytest.fixture
    def precision(self) -> Precision:
        """The precision under test, which a subclass provides."""
        raise NotImplementedError("give a fixture named precision")

    @pytest.fixture(params=sorted(_DTYPES))
    def dtype(self, request: pytest.FixtureRequest) -> str:
        """Every dtype that a model may have."""
        return str(request.param)

    @pytest.fixture
    def weight(self, dtype: str) -> torch.Tensor:
        """A matrix (64, 96) with rows of very different sizes, one of them zero."""
        draw = torch.Generator().manual_seed(3)
        scales = torch.logspace(-3, 1, 64)[:, None]
        scales[7] = 0
        return (torch.randn(64, 96, generator=draw) * scales).to(_DTYPES[dtype])

    def test_forms_spell_its_name(self, precision: Precision) -> None:
        """A form names it, dense or of a rank, and is read back."""
        for form in (Form(precision=precision.name), low_rank(8, precision=precision.name)):
            assert parse_form(str(form)) == form

    def test_bytes_grow_with_the_matrix(self, precision: Precision, dtype: str) -> None:
        """Stored bytes are positive, and more rows or columns do not take fewer."""
        least = precision.weight_bytes(32, 48, dtype=dtype)
        assert 0 < least <= precision.weight_bytes(64, 48, dtype=dtype)
        assert least <= precision.weight_bytes(32, 96, dtype=dtype)

    def test_a_layer_takes_the_bytes_of_its_matrices(
        self, precision: Precision, dtype: str
    ) -> None:
        """A dense layer is one matrix, a pair is two; bits per weight are consistent with bytes."""
        dense = LayerShape(tokens=1, in_features=96, out_features=64, dtype=dtype)
        pair = dense.with_form(low_rank(8))
        assert precision.layer_bytes(dense) == precision.weight_bytes(64, 96, dtype=dtype)
        both = precision.weight_bytes(8, 96, dtype=dtype) + precision.weight_bytes(
            64, 8, dtype=dtype
        )
        assert precision.layer_bytes(pair) == both
        assert precision.bits_per_weight(pair) * pair.parameters == pytest.approx(8 * both)

    def test_rounding_keeps_shape_dtype_and_weight(
        self, precision: Precision, weight: torch.Tensor
    ) -> None:
        """Rounded weights are finite, of the same shape and dtype; the weight is not written to."""
        before = weight.clone()
        rounded = precision.rounded(weight)
        assert rounded.shape == weight.shape
        assert rounded.dtype == weight.dtype
        assert rounded.isfinite().all()
        assert torch.equal(weight, before)
        assert torch.equal(precision.rounded(weight), rounded)

    def test_rounding_twice_changes_nothing_more(
        self, precision: Precision, weight: torch.Tensor
    ) -> None:
        """Rounded weights are their own rounding, up to the last digits of the dtype."""
        once = precision.rounded(weight)
        twice = precision.rounded(once)
        digits = 4 * torch.finfo(weight.dtype).eps
        assert torch.allclose(twice.float(), once.float(), rtol=digits, atol=0)

    def test_it_answers_for_every_backend(self, precision: Precision) -> None:
        """`available_on` answers for the name of any backend; native is available on all."""
        answers = [precision.available_on(name) for name in ("torch-eager", "tensorrt", "unknown")]
        assert all(isinstance(answer, bool) for answer in answers)
        assert precision.name != NATIVE or all(answers)
