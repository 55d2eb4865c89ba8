"""The model card: README.md of a tuned checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.repocard import metadata_load
from jinja2 import Environment, PackageLoader, StrictUndefined

from autotune.compress.companions import BACKEND_IR, BACKEND_ONNX, CARD, MODULES
from autotune.compress.locate import EMBEDDED_MODEL, is_local
from autotune.compress.remote_code import AUTO_MAP_FILE
from autotune.compress.tasks import task_class
from autotune.core.forms import NATIVE
from autotune.core.quantities import format_seconds
from autotune.core.version import __version__
from autotune.report.summary import quality_text, verdict_text
from autotune.results.record import TuneRecord

# The embedded model as the hub has it.
_EMBEDDED_ID = f"sentence-transformers/{EMBEDDED_MODEL}"
_EMBEDDED_LICENCE = "apache-2.0"
# Of the dense model's header these are true of the result as well.
_KEPT = ("license", "license_name", "license_link", "language", "pipeline_tag")


def model_card(
    record: TuneRecord, *, dense: Path | None = None, checkpoint: Path | None = None
) -> str:
    """The model card of a tuning, as Markdown with its YAML header.

    Args:
        record: The tuning.
        dense: The folder of the dense model, for what its own card says of licence and use.
        checkpoint: The folder that the card is for, which may hold graphs.
    """
    environment = Environment(
        loader=PackageLoader("autotune.report"),
        autoescape=False,  # noqa: S701 (Markdown)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    graphs = _graphs(checkpoint)
    environment.filters["seconds"] = format_seconds
    template = environment.get_template("card.md")
    text = template.render(
        record=record,
        header=_header(record, dense, graphs=graphs),
        rounded=_rounded_layers(record),
        graphs=graphs,
        verdict=verdict_text(record),
        quality=quality_text(record),
        version=__version__,
        code=AUTO_MAP_FILE,
        auto=task_class(record.task).auto_class,
    )
    return f"{text}\n"


def _graphs(checkpoint: Path | None) -> tuple[str, ...]:
    """The backends of sentence-transformers that find their graph in the checkpoint."""
    names = {"onnx": BACKEND_ONNX, "openvino": BACKEND_IR}
    return tuple(n for n, file in names.items() if checkpoint and (checkpoint / file).is_file())


def _header(record: TuneRecord, dense: Path | None, *, graphs: Sequence[str]) -> str:
    """The YAML header: what the model was made of, what it is for and what it is made with."""
    pools = _pools(dense)
    known = _dense_header(dense)
    use = "sentence-similarity" if pools else task_class(record.task).pipeline_tag
    rounded = _rounded_layers(record) > 0
    values: dict[str, Any] = {"pipeline_tag": use or None}
    if record.model == EMBEDDED_MODEL:
        values |= {"license": _EMBEDDED_LICENCE, "base_model": _EMBEDDED_ID}
    elif not is_local(record.model):
        values["base_model"] = record.model
    if "base_model" in values:
        values["base_model_relation"] = "quantized" if rounded else "finetune"
    values |= {name: known[name] for name in _KEPT if known.get(name)}
    tags = ["low-rank", "lowrank-autotune", *(["int8"] if rounded else [])]
    library = "sentence-transformers" if pools else "transformers"
    data = ModelCardData(
        library_name=library, tags=[*tags, *graphs], ignore_metadata_errors=True, **values
    )
    return data.to_yaml()


def _pools(dense: Path | None) -> bool:
    """Whether the dense model is a folder of sentence-transformers."""
    return dense is not None and (dense / MODULES).is_file()


def _rounded_layers(record: TuneRecord) -> int:
    """How many layers are in another precision than the model's own."""
    return sum(site.layer_count for site in record.changed if site.form.precision != NATIVE)


def _dense_header(dense: Path | None) -> dict[str, Any]:
    """The header of the dense model's card; empty where it has none that can be read."""
    path = dense / CARD if dense else None
    if path is None or not path.is_file():
        return {}
    try:
        found = metadata_load(path)
    except Exception:  # whatever YAML may raise; the card is for people
        return {}
    return found if isinstance(found, dict) else {}
