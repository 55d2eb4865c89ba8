"""Precisions by name; an implementation is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.core.errors import UsageError
from autotune.core.forms import Form, Plan
from autotune.core.layers import Site
from autotune.core.registry import Registry

if TYPE_CHECKING:
    from autotune.compress.precisions.base import Precision

__all__ = ["PRECISIONS", "check_precisions", "make_precision", "require_native"]

PRECISIONS = Registry(
    "precision",
    "autotune.precisions",
    own={
        "native": "autotune.compress.precisions.native:Native",
        "int8-static": "autotune.compress.precisions.integers:Int8Static",
        "int8-dynamic": "autotune.compress.precisions.integers:Int8Dynamic",
        "int8-weight-only": "autotune.compress.precisions.integers:Int8WeightOnly",
        "int4-weight-only": "autotune.compress.precisions.integers:Int4WeightOnly",
    },
)


def make_precision(name: str) -> Precision:
    """The precision `name`, as forms spell it.

    Raises:
        UsageError: an unknown name (the known ones are listed).
    """
    precision: Precision = PRECISIONS.construct(name)
    return precision


def check_precisions(plan: Plan, backend: str) -> None:
    """Check that builds for a backend may hold every form of a plan.

    Raises:
        UsageError: an unknown precision (the known ones are listed), or one that the backend lacks.
    """
    for name in sorted({form.precision for form in plan.values()}):
        if not make_precision(name).available_on(backend):
            raise UsageError(
                f"precision {name} is not available on the backend {backend}; choose forms in "
                "another precision, or another backend"
            )


def require_native(site: Site, form: Form, *, storage: str) -> None:
    """Check that the site's factors can be packed.

    Raises:
        UsageError: another precision than native or another structure than plain, which have
            layouts of their own.
    """
    if form.suffix:
        raise UsageError(
            f"{site.name} cannot take the form {form} in the storage {storage}: only plain factors "
            "in native precision are packed; leave storage at fp32, or choose such forms"
        )
