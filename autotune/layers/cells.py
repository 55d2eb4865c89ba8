"""Layers in the cells of columns, as files and data frames hold them; equal cells are read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from autotune.core.errors import UsageError
from autotune.core.forms import Form, parse_form
from autotune.core.layer_columns import Index, LayerColumns, LayerKind, Whole
from autotune.layers.options import LayerOptions, impossible_ranks

NEEDED = ("tokens", "in_features", "out_features")
ASKED = (*NEEDED, "rank", "dtype", "form")
_NUMBERS = ASKED[:4]
# Of missing values in files, and as pandas writes them.
_EMPTY = ("nan", "none", "null", "<na>")

Cells = Mapping[str, Sequence[Any]]
Faults = Mapping[int, UsageError]
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class ReadLayers:
    """The layers in n rows, and the dtype that each asks for, (n,); empty is the usual one.

    Rows that hold no layer are in `refused`, and nothing else of them counts.
    """

    layers: LayerColumns
    dtype: NDArray[np.str_]
    refused: Faults

    def by_dtype(self) -> Iterator[tuple[str | None, NDArray[np.intp]]]:
        """Every dtype that is asked for (None: the usual one), and its rows."""
        possible = np.ones(len(self.layers), dtype=bool)
        possible[np.array([*self.refused], dtype=np.intp)] = False
        for dtype in dict.fromkeys(self.dtype[possible].tolist()):
            yield dtype or None, np.flatnonzero(possible & (self.dtype == dtype))


def read_layers(cells: Cells, refused: Faults) -> ReadLayers:
    """The layers of columns of one length; rows that are `refused` already stay so.

    Of several faults of a row the first counts: no number, one out of bounds, no form, a rank that
    the layer cannot have.
    """
    count = len(cells[NEEDED[0]])
    columns = {name: _Column(cells.get(name), count=count) for name in ASKED}
    numbers, faults = {}, [refused]
    for name in _NUMBERS:
        values, found = columns[name].read(partial(_number, name))
        numbers[name] = np.array([value or 0 for value in values], dtype=np.int64)
        numbers[name] = numbers[name][columns[name].code]
        faults.append(found)
    faults += [columns[name].read(partial(_check_bounds, name))[1] for name in _NUMBERS]
    forms, found = columns["form"].read(_form)
    layers = _layers(numbers, forms, code=columns["form"].code)
    ranks = {row: UsageError(problem) for row, problem in impossible_ranks(layers).items()}
    every = {
        row: error for some in (ranks, found, *reversed(faults)) for row, error in some.items()
    }
    dtype = np.array(columns["dtype"].texts, dtype=np.str_)[columns["dtype"].code]
    return ReadLayers(layers=layers, dtype=dtype, refused=every)


def _layers(
    numbers: Mapping[str, Whole], forms: Sequence[Form | None], *, code: Index
) -> LayerColumns:
    """Of columns of numbers, and of the form of each row, which takes precedence over its rank."""
    given = np.array([form is not None for form in forms], dtype=bool)[code]
    ranks = np.array([form.rank if form else 0 for form in forms], dtype=np.int64)[code]
    of_forms = [
        LayerKind(structure=form.structure, precision=form.precision) if form else LayerKind()
        for form in forms
    ]
    kinds = tuple(dict.fromkeys(of_forms))
    kind = np.array([kinds.index(each) for each in of_forms], dtype=np.intp)[code]
    rank = np.where(given, ranks, numbers["rank"])
    return LayerColumns(**{**numbers, "rank": rank}, kind=kind, kinds=kinds)


class _Column:
    """n cells as text: the different `texts`, and which of them each cell is, `code` (n,).

    A text is empty where nothing is in a cell, as in a missing number of pandas.
    """

    def __init__(self, cells: Sequence[Any] | None, *, count: int) -> None:
        given = [""] * count if cells is None else [*map(str, cells)]
        codes = {text: code for code, text in enumerate(dict.fromkeys(given))}
        self.texts = [_text(cell) for cell in codes]
        self.code: Index = np.fromiter(map(codes.__getitem__, given), np.intp, count=count)

    def read(
        self, read: Callable[[str], _Value | None]
    ) -> tuple[list[_Value | None], dict[int, UsageError]]:
        """What `read` makes of every text, None where it fails; and its errors by row."""
        values: list[_Value | None] = [None] * len(self.texts)
        errors: dict[int, UsageError] = {}
        for code, text in enumerate(self.texts):
            try:
                values[code] = read(text)
            except UsageError as error:
                errors[code] = error
        rows = np.flatnonzero(np.isin(self.code, [*errors])).tolist() if errors else []
        return values, {row: errors[int(self.code[row])] for row in rows}


def _text(cell: str) -> str:
    text = cell.strip()
    return "" if text.lower() in _EMPTY else text


def _number(name: str, text: str) -> int | None:
    """A whole number; 1024.0 is one, as pandas writes a column with empty cells."""
    if not text and name not in NEEDED:
        return None
    whole, _, rest = text.partition(".")
    digits = whole.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18 or rest.strip("0"):
        raise UsageError(f"{name} must be a whole number, got {text[:40]!r}")
    return int(whole)


def _form(text: str) -> Form | None:
    return parse_form(text) if text else None


def _check_bounds(name: str, text: str) -> None:
    """Refuse a number that the option of this name does not take."""
    try:
        value = _number(name, text)
    except UsageError:
        return
    LayerOptions(**{**dict.fromkeys(NEEDED, 1), name: value})  # type: ignore[arg-type]
