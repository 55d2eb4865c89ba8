"""`--rank` and `--form` of the commands that measure or predict layers."""

from __future__ import annotations

from collections.abc import Sequence

import click

from autotune.core.errors import UsageError
from autotune.core.forms import Form, low_rank, parse_form

form_option = click.option(
    "--form",
    "forms",
    multiple=True,
    help="Form such as rank=96 or rank=96:pivoted:int8-static (repeatable).",
)


def chosen_forms(ranks: Sequence[int], forms: Sequence[str]) -> list[Form]:
    """The forms asked for with --rank and --form, each once, in the order given.

    Raises:
        UsageError: a rank below 1, or a form that is not spelled as one.
    """
    if any(rank < 1 for rank in ranks):
        raise UsageError("--rank must be at least 1")
    return list(dict.fromkeys([*map(low_rank, ranks), *map(parse_form, forms)]))
