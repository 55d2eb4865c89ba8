"""How the simulation reads shapes and plans; no other module here touches a rank or a form."""

from __future__ import annotations

from collections.abc import Iterable

from autotune.core.errors import UsageError
from autotune.core.forms import NATIVE, PLAIN, Form, Plan
from autotune.core.layers import LayerShape, Site, chosen_sites


def rank_of(shape: LayerShape) -> int:
    """The rank of a pair; 0 for the dense layer."""
    return shape.rank


def is_dense(shape: LayerShape) -> bool:
    """Whether the layer is not factorized."""
    return rank_of(shape) == 0


def at_rank(shape: LayerShape, rank: int) -> LayerShape:
    """The same layer as a pair of `rank`; 0 makes it dense."""
    return shape.with_form(Form(rank=rank))


def shape_in(site: Site, form: Form, *, dtype: str) -> LayerShape:
    """The shape of `site` in `form`.

    Raises:
        UsageError: a structure or precision that simulated hardware has no latency for.
    """
    if form.structure != PLAIN or form.precision != NATIVE:
        raise UsageError(
            f"site {site.name}: simulated hardware knows plain factors in the native precision "
            f"only, got {form}"
        )
    return site.shape(form, dtype)


def chosen_forms(sites: Iterable[Site], plan: Plan) -> list[tuple[Site, Form]]:
    """The sites that cover every layer once under `plan`, with their forms.

    `sites` may hold joint sites; one counts when the plan factorizes it, and then its members do
    not.
    """
    return chosen_sites(sites, plan)
