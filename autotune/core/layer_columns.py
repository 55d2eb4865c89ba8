"""Many layers as columns: one array for each size, so that all of them are computed at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotune.core.forms import NATIVE, PLAIN, Form
from autotune.core.layers import LayerShape, pair_parameters

Whole = NDArray[np.int64]
Mask = NDArray[np.bool_]
Index = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, order=True)
class LayerKind:
    """What a layer is besides its sizes and its rank; many layers share a few kinds."""

    structure: str = PLAIN
    precision: str = NATIVE
    dtype: str = "fp32"
    parts: tuple[int, ...] = ()

    @property
    def is_native(self) -> bool:
        """Whether factors are plain and the precision is the model's own."""
        return self.structure == PLAIN and self.precision == NATIVE


@dataclass(frozen=True, kw_only=True)
class LayerColumns:
    """n layers: their sizes and ranks, (n,) each, and which of `kinds` each is, (n,).

    A rank of 0 is the dense layer. `LayerShape` is one of them by itself.
    """

    tokens: Whole
    in_features: Whole
    out_features: Whole
    rank: Whole
    kind: Index
    kinds: tuple[LayerKind, ...]

    @staticmethod
    def of(shapes: Sequence[LayerShape]) -> LayerColumns:
        """The columns of layers."""
        codes: dict[LayerKind, int] = {}
        kind = [codes.setdefault(_kind(shape), len(codes)) for shape in shapes]
        sizes = [(s.tokens, s.in_features, s.out_features, s.form.rank) for s in shapes]
        tokens, in_features, out_features, rank = np.array(sizes, dtype=np.int64).reshape(-1, 4).T
        return LayerColumns(
            tokens=tokens,
            in_features=in_features,
            out_features=out_features,
            rank=rank,
            kind=np.array(kind, dtype=np.intp),
            kinds=tuple(codes),
        )

    def __len__(self) -> int:
        return len(self.kind)

    def shape(self, row: int) -> LayerShape:
        """One of them."""
        kind, rank = self.kinds[self.kind[row]], int(self.rank[row])
        return LayerShape(
            tokens=int(self.tokens[row]),
            in_features=int(self.in_features[row]),
            out_features=int(self.out_features[row]),
            form=Form(
                rank=rank, structure=kind.structure if rank else PLAIN, precision=kind.precision
            ),
            dtype=kind.dtype,
            parts=kind.parts,
        )

    def shapes(self) -> list[LayerShape]:
        """Each of them."""
        return [self.shape(row) for row in range(len(self))]

    def rows(self, chosen: Mask | Index) -> LayerColumns:
        """Some of them."""
        return LayerColumns(
            tokens=self.tokens[chosen],
            in_features=self.in_features[chosen],
            out_features=self.out_features[chosen],
            rank=self.rank[chosen],
            kind=self.kind[chosen],
            kinds=self.kinds,
        )

    @property
    def dense(self) -> LayerColumns:
        """The same layers as the model has them."""
        kinds = tuple(replace(each, structure=PLAIN, precision=NATIVE) for each in self.kinds)
        return replace(self, rank=np.zeros_like(self.rank), kinds=kinds)

    def in_dtype(self, dtype: str) -> LayerColumns:
        """The same layers in a dtype."""
        return replace(self, kinds=tuple(replace(each, dtype=dtype) for each in self.kinds))

    @cached_property
    def is_native(self) -> Mask:
        """Whether factors are plain and in the model's own precision, (n,)."""
        native: Mask = np.array([each.is_native for each in self.kinds], dtype=bool)[self.kind]
        return native

    @property
    def is_dense(self) -> Mask:
        """Whether a layer is not factorized, in whatever precision, (n,)."""
        dense: Mask = self.rank == 0
        return dense

    @property
    def is_unchanged(self) -> Mask:
        """Whether a layer is as the model has it, (n,)."""
        unchanged: Mask = self.is_dense & self.is_native
        return unchanged

    def groups(self) -> Iterator[tuple[LayerKind, Index]]:
        """Every kind that has layers, and their rows."""
        for code, kind in enumerate(self.kinds):
            rows = np.flatnonzero(self.kind == code)
            if len(rows):
                yield kind, rows

    @property
    def parameters(self) -> NDArray[np.float64]:
        """Weights, (n,), as `LayerShape.parameters`; products of three sizes exceed integers."""
        found = np.multiply(self.in_features, self.out_features, dtype=np.float64)
        for kind, rows in self.groups():
            pairs = rows[self.rank[rows] > 0]
            rank = self.rank[pairs].astype(np.float64)
            k, n = self.in_features[pairs], self.out_features[pairs]
            found[pairs] = pair_parameters(k, n, rank=rank, structure=kind.structure)
        return found


def _kind(shape: LayerShape) -> LayerKind:
    form = shape.form
    return LayerKind(
        structure=form.structure, precision=form.precision, dtype=shape.dtype, parts=shape.parts
    )
