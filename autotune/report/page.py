"""The template environment of the report, with filters for quantities."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from autotune.core.quantities import format_bytes, format_count, format_seconds


def environment() -> Environment:
    """An environment that escapes all values and treats an unknown name as an error."""
    made = Environment(
        loader=PackageLoader("autotune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"seconds": format_seconds, "bytes": format_bytes, "count": format_count}
    return made
