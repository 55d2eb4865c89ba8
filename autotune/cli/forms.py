"""`--rank` and `--form` of the commands that measure or predict layers."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.core.forms import Form, low_rank, parse_form
from autotune.core.option_names import about


def chosen_forms(ranks: Sequence[int], forms: Sequence[str]) -> list[Form]:
    """The forms asked for with --rank and --form, each once, in the order given.

    Raises:
        UsageError: a form that is not spelled as one.
    """
    with about("form"):
        return list(dict.fromkeys([*map(low_rank, ranks), *map(parse_form, forms)]))
