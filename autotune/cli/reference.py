"""The reference page of options, generated from the schemas: `python -m autotune.cli.reference`.

A test compares `docs/options.md` with what this prints.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from autotune.cli.job_options import DriftOptions, ExportOptions
from autotune.cli.schema import default_text
from autotune.core.options import EFFORTS, Entry, entries
from autotune.layers.network_options import NetworkOptions, only_of_models
from autotune.layers.options import PredictOptions, ProfileOptions
from autotune.tuning.request import TuneRequest

_HEAD = """# Options

Generated from the schemas in `autotune/tuning/options.py`, `autotune/tuning/request.py`,
`autotune/core/workload.py`, `autotune/compress/calibration_plan.py`, `autotune/layers/options.py`,
`autotune/layers/network_options.py` and `autotune/cli/job_options.py`;
[extending.md](extending.md) shows how to add one.

An option has one declaration and three spellings: the flag of the command line; the path in the
JSON of a request, in `autotune.tune(options=…)` and in an HTTP `spec`; and the flat name, which is
a keyword of `autotune.tune`, `predict`, `predict_model` and `profile` and, for one release, a field
of an HTTP `spec`. An error names the option in the spelling that was used.

`autotune tune … --print-request > job.json` stores a request, and
`autotune tune --request job.json` runs it; options on the command line take precedence. A service
stores its tunings in the same form.
"""
_EFFORT = """
## Effort

`--effort` sets these where they are not given. `$AUTOTUNE_MEASURE_SECONDS` overrides its time
limit.
"""


def page() -> str:
    """The whole page, in Markdown."""
    lines = [_HEAD, "## `autotune tune`", ""]
    groups: dict[str, list[Entry]] = {}
    for entry in entries(TuneRequest):
        groups.setdefault(entry.option.group or "From Python and JSON only", []).append(entry)
    for title, found in groups.items():
        if title != "From Python and JSON only":
            lines += [f"### {title}", "", *_table(found), ""]
    lines += ["### From Python and JSON only", ""]
    lines += _table(groups["From Python and JSON only"])
    lines += [_EFFORT.rstrip(), "", *_efforts(), ""]
    of_models = [each for each in entries(NetworkOptions) if only_of_models(each.option.flat)]
    for command, schema, more in (
        ("autotune profile", ProfileOptions, []),
        ("autotune predict", PredictOptions, of_models),
        ("autotune export", ExportOptions, []),
        ("autotune db drift", DriftOptions, []),
    ):
        lines += [f"## `{command}`", "", *_table([*entries(schema), *more]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(found: list[Entry]) -> Iterator[str]:
    yield "| flag | path | flat name | values | default | |"
    yield "|---|---|---|---|---|---|"
    for entry in found:
        if entry.option.secret:
            continue
        option = entry.option
        flags = " / ".join(f"`{each}`" for each in (option.short, option.flag, option.off) if each)
        flat = f"`{option.flat}`" if option.flat else ""
        unset = "required" if option.required else "off" if entry.kind is bool else "none"
        default = default_text(entry) or unset
        cells = (flags, f"`{entry.path}`", flat, _values(entry), default, option.help)
        yield f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |"


def _values(entry: Entry) -> str:
    """Which values an option takes."""
    option = entry.option
    if option.choices:
        text = ", ".join(option.names())
        return f"{text}; with `NAME:key=value`" if option.configurable else text
    kinds = {int: "whole number", float: "number", bool: "true or false"}
    text = " ".join(filter(None, (kinds.get(entry.item, "text"), option.bounds)))
    return f"{text}, repeatable" if entry.kind is tuple else text


def _efforts() -> Iterator[str]:
    yield f"| option | {' | '.join(EFFORTS)} |"
    yield "|---|---|---|---|"
    for entry in entries(TuneRequest):
        if entry.option.by_effort is not None:
            unit = " tokens" if entry.path == "calibration.statistics_samples" else ""
            cells = [
                "chosen by the task" if value is None else f"{round(value):,}{unit}"
                for value in entry.option.by_effort
            ]
            yield f"| `{entry.option.flag}` | {' | '.join(cells)} |"


if __name__ == "__main__":
    click.echo(page(), nl=False)
