"""The public entry point: `tune`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autotune.compress.calibration_plan import CalibrationPlan
from autotune.core.errors import AutotuneError
from autotune.core.option_names import option_names
from autotune.core.options import EFFORTS
from autotune.core.options_json import (
    at,
    flat_entries,
    from_json,
    merged,
    nested_from_flat,
    to_json,
)
from autotune.core.paths import data_folder
from autotune.core.progress import Reporter
from autotune.core.types import Budget, Workload
from autotune.results.result import TuneResult
from autotune.tuning.ownership import check_output
from autotune.tuning.request import TuneOptions, TuneRequest

__all__ = ["make_request", "tune"]
# Arguments of `tune` itself.
_NOT_FLAT = ("model", "output", "effort")


def tune(
    model: str | Path | None = None,
    *,
    budget: Budget | None = None,
    workload: Workload | None = None,
    effort: str = "normal",
    output: str | Path | None = None,
    options: TuneOptions | None = None,
    reporter: Reporter | None = None,
    **flat: Any,
) -> TuneResult:
    """Choose ranks under a budget, factorize, export, and measure that the budget holds.

    Every option of the command line can be set, in one of two spellings: as a field of `budget`,
    `workload` or `options`, such as ``TuneOptions(search=SearchOptions(trials=30))``, or as a
    keyword of the option's flat name, such as ``trials=30``; `docs/options.md` lists both. A
    keyword goes before a field, and errors name an option in the spelling that was used.

    Args:
        model: A transformers folder or hub id; None is the embedded default model.
        budget: Limits, such as ``Budget(latency="0.85x")``: latency in seconds of one run of the
            workload's phase, sizes in bytes, parameters and FLOPs as counts, each with a unit, or
            relative to the dense model with an ``x``. At least one, here or as a keyword such as
            ``latency_budget="0.85x"``.
        workload: Batch size (sequences), sequence length and output length (tokens), and the phase
            whose latency is limited; a prefill of 8 sequences of 128 tokens unless given.
        effort: "quick", "normal" or "thorough": how much time to spend. It sets trials, rounds,
            sensitivity_rounds, measure_seconds and calibration_samples where they are not given.
        output: The run folder; the same call on the same folder continues in it. Default:
            ``autotune-out/<model>`` in the current folder.
        options: Machine, calibration, method, search, seed and whether a lost quality is allowed.
        reporter: Receives progress.
        **flat: Options by their flat names: ``device="h200"``, ``calibration="text.txt"``,
            ``measure_seconds=5.0`` (seconds), ``allow_extrapolation=True``, ``farm="IP:PORT"``,
            ``batch_size=8``, ``isl=128`` (tokens) …

    Returns:
        The result; `result.verdict` tells whether the measured model meets the budget, and
        `result.quality_verdict` whether it still does what the dense one did.

    Raises:
        OptionError: a value that cannot be used; it is a UsageError and names the option.
        UsageError: a model, file or folder that cannot be used.
        BudgetInfeasibleError: no plan meets the budget; names the reachable minimum.
        DeviceMissingError: the device or backend is not on this machine.
        MeasurementError: a measurement failed.
        TypeError: a keyword that is not an option.
    """
    request = make_request(
        model,
        budget=budget,
        workload=workload,
        effort=effort,
        output=output,
        options=options,
        flat=flat,
    )
    given = {"budget": budget, "workload": workload, "options": options}
    with _named_as_written(flat, {name for name, part in given.items() if part is not None}):
        request.check()
        check_output(request)
        from autotune.tuning.opening import tune as run

        return run(request, reporter or Reporter())


# What a caller may have meant who gave a text or a dictionary.
_EXAMPLES = {
    "budget": "a Budget, such as Budget(latency='0.85x'); or give latency_budget='0.85x'",
    "workload": "a Workload, such as Workload(batch_size=1); or give batch_size=1",
    "options": "a TuneOptions; or give its options by their names",
}


def make_request(
    model: str | Path | None = None,
    *,
    budget: Budget | None = None,
    workload: Workload | None = None,
    effort: str = EFFORTS[1],
    output: str | Path | None = None,
    options: TuneOptions | None = None,
    flat: Mapping[str, Any] | None = None,
) -> TuneRequest:
    """The request that the arguments of `tune` describe.

    Raises:
        OptionError: a value that cannot be used.
        TypeError: a keyword that is not an option.
    """
    for name, kind, one in (
        ("budget", Budget, budget),
        ("workload", Workload, workload),
        ("options", TuneOptions, options),
    ):
        if not isinstance(one, kind | None):
            raise TypeError(f"{name} must be {_EXAMPLES[name]}, got {one!r}")
    flat, given = flat or {}, {"budget": budget, "workload": workload, "options": options}
    options = options or TuneOptions()
    values: dict[str, Any] = {
        "machine": to_json(options.machine),
        "calibration": to_json(options.calibration),
        "method": to_json(options.method),
        "search": to_json(options.search),
        "seed": options.seed,
        "allow_quality_loss": options.allow_quality_loss,
        "budget": to_json(budget) if budget else {},
        "workload": _sizes(workload, flat) if workload else {},
        "effort": effort,
        "model": None if model is None else str(model),
        "output": None if output is None else str(output),
    }
    with _named_as_written(flat, {name for name, part in given.items() if part is not None}):
        values = merged(values, _nested(flat))
        token = at(values, "machine.farm_token", default=options.machine.farm_token)
        if at(values, "machine.farm") and token is None:
            from autotune.farm.processes import read_token

            token = read_token(data_folder() / "farm-token")
        values["machine"]["farm_token"] = token
        return from_json(TuneRequest, values)


def _sizes(workload: Workload, flat: Mapping[str, Any]) -> dict[str, Any]:
    """A workload's JSON; its phase follows the keyword of an output length unless it was chosen."""
    found = to_json(workload)
    usual = "request" if workload.output_length else "prefill"
    if flat.get("osl") is not None and workload.phase == usual:
        del found["phase"]
    return found


@contextmanager
def _named_as_written(flat: Mapping[str, Any], objects: Collection[str]) -> Iterator[None]:
    """Errors name an option as the caller wrote it.

    That is by its keyword where the keyword was given; by its path, such as `search.trials`, where
    the object that it is a field of was given; and else by the keyword that would set it.
    """
    keyword = option_names("flat", TuneRequest)

    def spelled(path: str) -> str:
        part = path.partition(".")[0]
        own = part if part in ("budget", "workload") else "options"
        by_path = "." in path and own in objects and keyword(path) not in flat
        return path if by_path else keyword(path)

    try:
        yield
    except AutotuneError as error:
        error.name_options(spelled)
        raise


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested JSON of keywords by flat name; a whole CalibrationPlan may stand for its file."""
    allowed = {name for name in flat_entries(TuneRequest) if name not in _NOT_FLAT} | {"farm_token"}
    for name in flat:
        if name not in allowed:
            raise TypeError(
                f"tune() got an unexpected keyword argument {name!r}; options are "
                f"{', '.join(sorted(allowed))}"
            )
    values = dict(flat)
    plan, token = values.get("calibration"), values.pop("farm_token", None)
    if isinstance(plan, CalibrationPlan):
        del values["calibration"]
    found = nested_from_flat(TuneRequest, values)
    if isinstance(plan, CalibrationPlan):
        found["calibration"] = merged(to_json(plan), found.get("calibration", {}))
    return merged(found, {"machine": {"farm_token": token}}) if token else found
