"""What is asked of single layers: their options, and the shapes and forms that these spell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from autotune.core.errors import AutotuneError, UsageError, option_name
from autotune.core.forms import Form, low_rank, parse_form
from autotune.core.layers import LayerShape
from autotune.core.option_names import about, spell
from autotune.core.options import Entry, OptionError, check_options, entries, option, same
from autotune.core.options_json import from_json
from autotune.core.types import LARGEST_INTEGER, Address
from autotune.core.workload import Workload
from autotune.tuning.options import NAMED_BACKEND, MachineOptions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from autotune.core.layer_columns import LayerColumns
    from autotune.profiler.backends.base import Backend

_Options = TypeVar("_Options", bound="DataclassInstance")
_SHAPE = re.compile(r"([0-9]{1,7})x([0-9]{1,7})")


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """A linear layer on `tokens` rows: dense, factorized at rank `rank`, or in a `form`."""

    tokens: int = option(
        flag="--tokens",
        required=True,
        ge=1,
        le=LARGEST_INTEGER,
        metavar="M",
        help="Rows of the input, M.",
    )
    in_features: int = option(
        required=True, ge=1, le=LARGEST_INTEGER, help="Columns of the input, K."
    )
    out_features: int = option(
        required=True, ge=1, le=LARGEST_INTEGER, help="Columns of the output, N."
    )
    rank: int | None = option(
        flag="--rank",
        ge=1,
        le=LARGEST_INTEGER,
        metavar="R",
        default_text="dense only",
        help="Rank of the factors.",
    )
    form: str | None = option(
        flag="--form",
        metavar="FORM",
        help="Form, such as rank=96; other structures and precisions need a backend that has them.",
    )

    def __post_init__(self) -> None:
        check_options(self)

    def layer(self) -> LayerShape:
        """The layer in the requested form; `form` takes precedence over `rank`.

        Raises:
            UsageError: a form that is not spelled as one, or a rank that the layer cannot have.
        """
        found = LayerShape(
            tokens=self.tokens,
            in_features=self.in_features,
            out_features=self.out_features,
            form=parse_form(self.form) if self.form else Form(rank=self.rank or 0),
        )
        if (problem := no_such_rank(found)) is not None:
            raise UsageError(problem)
        return found


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Predict the latency of a layer."""

    tokens: int | None = same(LayerOptions, "tokens", default=None, required=False)
    shape: str | None = option(
        flag="--shape",
        metavar="KxN",
        help="IN_FEATURESxOUT_FEATURES of a layer.",
    )
    ranks: tuple[int, ...] = same(LayerOptions, "rank", default=(), flat="ranks")
    forms: tuple[str, ...] = same(LayerOptions, "form", default=(), flat="forms")
    device: str = same(MachineOptions, "device")
    backend: str | None = same(MachineOptions, "backend", **NAMED_BACKEND)
    dtype: str | None = same(MachineOptions, "dtype")
    threads: int | None = same(MachineOptions, "threads")
    database: Address = same(MachineOptions, "database")
    allow_extrapolation: bool = same(MachineOptions, "allow_extrapolation")

    def __post_init__(self) -> None:
        check_options(self)

    def layer(self) -> tuple[int, str]:
        """Tokens and sizes of the layer.

        Raises:
            OptionError: one of them is missing.
        """
        if self.tokens is None:
            raise OptionError("tokens", "is missing: the rows of the input", schema=PredictOptions)
        if self.shape is None:
            raise OptionError("shape", "is missing: KxN, such as 384x1536", schema=PredictOptions)
        return self.tokens, self.shape


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """Measure dense and low-rank layers and store the results in the database."""

    tokens: tuple[int, ...] = same(LayerOptions, "tokens", default=(), required=False)
    shapes: tuple[str, ...] = same(PredictOptions, "shape", default=(), flat="shapes")
    plan: str | None = option(
        flag="--plan",
        choices=("quick", "full"),
        help="Profile the standard layers: quick (about 100 points, 2 minutes) or full.",
    )
    next_points: int | None = option(
        flag="--next",
        flat="next_points",
        ge=1,
        le=10_000,
        metavar="COUNT",
        help="Profile so many more points of the standard layers, the most informative.",
    )
    model: str | None = option(
        flag="--for", flat="model", metavar="FOLDER|ID", help="Profile the layers of this model."
    )
    batch_size: int = same(Workload, "batch_size", note="With --for only: ")
    isl: int = same(Workload, "sequence_length", note="With --for only: ")
    osl: int = same(Workload, "output_length", note="With --for only: ")
    ranks: tuple[int, ...] = same(
        LayerOptions, "rank", default=(), flat="ranks", default_text="the aligned grid"
    )
    forms: tuple[str, ...] = same(LayerOptions, "form", default=(), flat="forms")
    device: str = same(MachineOptions, "device")
    backend: str | None = same(MachineOptions, "backend", **NAMED_BACKEND)
    dtype: str | None = same(MachineOptions, "dtype")
    threads: int | None = same(MachineOptions, "threads")
    remeasure: bool = same(MachineOptions, "remeasure")
    farm: str | None = same(MachineOptions, "farm")
    database: Address = same(MachineOptions, "database")

    def __post_init__(self) -> None:
        check_options(self)

    def check(self) -> None:
        """Refuse what is no layer and no form, layers not given once, and a workload of no model.

        Raises:
            UsageError: one that cannot be used, under its name.
        """
        ways = (self.model, self.plan, self.tokens and self.shapes, self.next_points)
        if sum(map(bool, ways)) != 1:
            rule = "give {tokens} and {shapes}, or {model}, or {plan} quick, or {next_points} 25"
            raise OptionError("", rule, schema=ProfileOptions)
        given = [each.path for each in entries(ProfileOptions) if self._is_of_a_model(each)]
        if given and not self.model:
            raise OptionError(given[0], "needs {model}", schema=ProfileOptions)
        layers = [parse_shape(shape, max(self.tokens, default=1)) for shape in self.shapes]
        for form in chosen_forms(self.ranks, self.forms):
            require_rank([layer.with_form(form) for layer in layers])

    def _is_of_a_model(self, entry: Entry) -> bool:
        """Whether an option of the model's workload was set to another value than its default."""
        name = entry.name
        return name in ("batch_size", "isl", "osl") and getattr(self, name) != entry.default


def check_forms(forms: Iterable[Form], backend: Backend, *, schema: type) -> None:
    """Refuse forms of layers that the backend cannot run.

    Raises:
        OptionError: one that it has no implementation of.
    """
    for form in forms:
        if not backend.implements(form):
            rule = (
                f"{form}: {backend.name} has no implementation of it; measure pairs in native "
                "precision, such as rank=96, or choose another {backend}"
            )
            raise OptionError("forms", rule, schema=schema)


def no_such_rank(shape: LayerShape) -> str | None:
    """Why no layer of this size has the rank of its form, where it has not."""
    largest = min(shape.in_features, shape.out_features)
    if shape.rank <= largest:
        return None
    size = f"{shape.in_features}x{shape.out_features}"
    return f"{shape.form}: a matrix of {size} has ranks up to {largest}; give one of these"


def impossible_ranks(layers: LayerColumns) -> dict[int, str]:
    """Why layers have not the ranks of their forms, by row."""
    above = layers.rank > layers.in_features
    above |= layers.rank > layers.out_features
    return {row: str(no_such_rank(layers.shape(row))) for row in above.nonzero()[0].tolist()}


def require_rank(shapes: Sequence[LayerShape]) -> None:
    """Refuse ranks that none of the layers can have.

    Raises:
        UsageError: there are layers, and none has the rank of its form.
    """
    problems = [no_such_rank(shape) for shape in shapes]
    if problems and all(problems):
        raise UsageError(str(problems[0]))


def parse_shape(text: str, tokens: int) -> LayerShape:
    """`384x1536` (in_features x out_features) on `tokens` rows.

    Raises:
        UsageError: another form, or a size of zero.
    """
    match = _SHAPE.fullmatch(text)
    if match is None or not all(map(int, match.groups())):
        raise UsageError(
            f"{option_name('shape')} must be IN_FEATURESxOUT_FEATURES, such as 384x1536, "
            f"got {text!r}"
        )
    return LayerShape(
        tokens=tokens, in_features=int(match.group(1)), out_features=int(match.group(2))
    )


def chosen_forms(ranks: Sequence[int], forms: Sequence[str]) -> list[Form]:
    """The forms asked for with --rank and --form, each once, in the order given.

    Raises:
        UsageError: a form that is not spelled as one.
    """
    with about("form"):
        return list(dict.fromkeys([*map(low_rank, ranks), *map(parse_form, forms)]))


def from_keywords(schema: type[_Options], given: Mapping[str, Any], *, of: str) -> _Options:
    """The options that keywords of the Python function `of` describe.

    Raises:
        OptionError: a value that cannot be used.
        TypeError: a keyword that is not an option.
    """
    known = [each.name for each in fields(schema)]
    for name in given:
        if name not in known:
            raise TypeError(
                f"{of}() got an unexpected keyword argument {name!r}; options are "
                f"{', '.join(known)}"
            )
    return from_json(schema, dict(given))


@contextmanager
def named_as_keywords(schema: type) -> Iterator[None]:
    """Errors name an option by the keyword that sets it."""
    try:
        yield
    except AutotuneError as error:
        raise spell(error, "flat", schema) from None
