"""The templates of the report, and how they write quantities."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from autotune.core.quantities import format_bytes, format_count, format_seconds


def environment() -> Environment:
    """Everything is escaped, and an unknown name is an error."""
    made = Environment(
        loader=PackageLoader("autotune.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"seconds": format_seconds, "bytes": format_bytes, "count": format_count}
    return made
