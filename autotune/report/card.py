"""The model card: README.md of a tuned checkpoint."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from autotune.compress.remote_code import AUTO_MAP_FILE
from autotune.compress.tasks import task_class
from autotune.core.quantities import format_seconds
from autotune.core.version import __version__
from autotune.report.summary import quality_text
from autotune.results.record import TuneRecord


def model_card(record: TuneRecord) -> str:
    """The model card of a tuning, as Markdown with its YAML header."""
    environment = Environment(
        loader=PackageLoader("autotune.report"),
        autoescape=False,  # noqa: S701 (Markdown)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["seconds"] = format_seconds
    template = environment.get_template("card.md")
    text = template.render(
        record=record,
        quality=quality_text(record),
        version=__version__,
        code=AUTO_MAP_FILE,
        auto=task_class(record.task).auto_class,
    )
    return f"{text}\n"
