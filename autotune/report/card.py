"""The model card: README.md of a tuned checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from autotune.compress.remote_code import AUTO_MAP_FILE
from autotune.core.quantities import format_seconds
from autotune.core.version import __version__

_AUTO = {
    "causal-lm": "AutoModelForCausalLM",
    "classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
}


def model_card(record: Mapping[str, Any]) -> str:
    """Markdown from the record of a run (result.json)."""
    environment = Environment(
        loader=PackageLoader("autotune.report"), autoescape=False, undefined=StrictUndefined,  # noqa: S701 (Markdown)
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["seconds"] = format_seconds
    ranks = [site for site in record["sites"] if site["rank"] is not None]
    return environment.get_template("card.md").render(
        record=record, ranks=ranks, version=__version__, code=AUTO_MAP_FILE,
        auto=_AUTO.get(record["task"], "AutoModel"),
    ) + "\n"  # fmt: skip
