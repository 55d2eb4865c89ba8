"""What a worker answers, checked before it is used: shape, types and bounds.

A worker's text comes from another host, and what it says is stored and shown.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.core.errors import AutotuneError, MeasurementError
from autotune.core.layers import LayerShape
from autotune.core.text import one_line
from autotune.core.types import Fingerprint, Record, from_mapping
from autotune.devices.detect import CPU_FEATURES
from autotune.devices.specs import DTYPE_BYTES, DeviceSpec, find_device
from autotune.farm.base import Abilities
from autotune.profiler.database.audit import least_latency_s
from autotune.profiler.database.records import PERCENTS
from autotune.profiler.measure.nodes import SiteProfile
from autotune.profiler.measure.tasks import Outcome, TimingTask
from autotune.profiler.measure.timing import PairedTiming

_CHARACTERS = 8_000_000
_ENTRIES = 10_000
_ERROR_CHARACTERS = 500
# No call of any kernel is shorter, and nothing that is timed takes longer.
_LEAST_S, _MOST_S = 1e-8, 1e5
# No CPU computes more in a second; its sheet stands for all CPUs, so it bounds nothing.
_CPU_FLOPS = 1e15
_SLACK = 0.9
# Medians of latencies and of ratios are of the same calls.
_INCONSISTENT = 4.0
_REFUSED = (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


class AnswerError(MeasurementError):
    """A worker's answer is not one to what it was asked."""


def cut(text: object) -> str:
    """A worker's words as one line of at most 500 characters, without control characters."""
    line = one_line(str(text)[: 2 * _ERROR_CHARACTERS])
    return line if len(line) <= _ERROR_CHARACTERS else f"{line[:_ERROR_CHARACTERS]} …"


def worker_error(cause: object) -> AutotuneError:
    """The error to raise for one that a worker raised: ours as it is, its message cut."""
    if isinstance(cause, AutotuneError):
        cause.args = (cut(cause.template), *cause.args[1:])
        return cause
    return MeasurementError(f"a worker failed: {type(cause).__name__}: {cut(cause)}")


def read_outcome(text: object, task: TimingTask, *, index: int, device: str) -> Outcome:
    """The outcome of the task at `index`, which the worker was to answer next.

    Raises:
        AnswerError: it is of another form, of another task, or nothing that a device can do.
    """
    values = _object(text)
    try:
        outcome = Outcome.from_json(values)
    except _REFUSED as error:
        raise AnswerError(f"a worker sent no outcome ({cut(error)})") from None
    _require(type(outcome.index) is int and outcome.index == index, "the outcome of another task")
    _require(type(outcome.died) is bool, "no truth value")
    if outcome.timing is None:
        _require(isinstance(outcome.error, str), "an error that is no text")
        return Outcome(index=index, error=cut(outcome.error), died=outcome.died)
    _require(len(outcome.clocks) <= _ENTRIES, "too many clocks")
    for record in (outcome.timing, *outcome.clocks):
        _check_types(record)
    _check_timing(outcome.timing, task, spec=find_device(device))
    return outcome


def read_profile(text: object, sites: Sequence[str]) -> SiteProfile | None:
    """The latencies of the sites of a network; None where they are not told apart there.

    Raises:
        AnswerError: it is of another form or of other sites.
    """
    if text == "null":
        return None
    profile = _record(SiteProfile, text)
    _require(set(profile.sites_s) == set(sites), "the profile of other sites")
    _require(
        all(_is_latency(s) for s in (profile.total_s, *profile.sites_s.values())),
        "a latency that no device has",
    )
    _require(sum(profile.sites_s.values()) <= 1.01 * profile.total_s, "sites slower than the whole")
    return profile


def read_fingerprint(text: object, *, device: str) -> Fingerprint:
    """The fingerprint of a worker's host.

    Raises:
        AnswerError: it is of another form or of another device.
    """
    found = _record(Fingerprint, text)
    _require(found.device == device, "the fingerprint of another device")
    return found


def read_abilities(text: object, *, dtype: str, forms: Sequence[str]) -> Abilities:
    """What networks on a worker's device can be.

    Raises:
        AnswerError: it is of another form, or of forms that were not asked for.
    """
    values = _object(text)
    columns = {name: tuple(row) for name, row in values.items() if isinstance(row, list)}
    _require(len(columns) == len(values), "abilities that are no lists")
    try:
        found = from_mapping(Abilities, columns)
    except ValueError as error:
        raise AnswerError(f"a worker sent no Abilities ({cut(error)})") from None
    _check_types(found)
    _require(set(found.forms) <= set(forms), "forms that were not asked for")
    _require(found.dtypes[:1] == (dtype,), "the dtypes of another one")
    _require(set(found.dtypes) <= set(DTYPE_BYTES), "dtypes that nobody knows")
    _require(set(found.cpu_features) <= CPU_FEATURES, "instructions that nobody knows")
    return found


def read_losses(text: object) -> list[list[float]]:
    """The (sum, count) of the loss of every batch.

    Raises:
        AnswerError: it is of another form.
    """
    found = _json(text)
    rows = found if isinstance(found, list) and len(found) <= _ENTRIES else []
    whole = all(
        isinstance(row, list) and len(row) == 2 and all(map(_is_number, row)) for row in rows
    )
    _require(bool(rows) and whole, "no losses")
    return rows


def _check_timing(timing: PairedTiming, task: TimingTask, *, spec: DeviceSpec) -> None:
    """Refuse a timing of other subjects, or one that no device could have taken."""
    count = len(task.subjects)
    columns = (timing.latencies_s, timing.ratios, timing.ratio_lows, timing.ratio_highs)
    _require(all(len(column) == count for column in columns), "timings of other subjects")
    for rows, length in ((timing.quantiles_s, len(PERCENTS)), (timing.samples_s, None)):
        _require(len(rows) in (0, count), "samples of other subjects")
        _require(all(length in (None, len(row)) for row in rows), "other quantiles")
        _require(all(_is_latency(s) for row in rows for s in row), "a latency that no device has")
    for i, subject in enumerate(task.subjects):
        latency_s, ratio = timing.latencies_s[i], timing.ratios[i]
        _require(_is_latency(latency_s), f"a latency of {latency_s} s")
        if subject.layer is not None:
            least = _least_s(spec, subject.layer)
            _require(
                latency_s >= least, f"{latency_s:.3g} s, below the {least:.3g} s of the device"
            )
        _require(0 < timing.ratio_lows[i] <= ratio <= timing.ratio_highs[i], "no interval")
        found = latency_s / timing.latencies_s[0] / ratio
        _require(1 / _INCONSISTENT < found < _INCONSISTENT, "ratios of other latencies")


def _least_s(spec: DeviceSpec, shape: LayerShape) -> float:
    if spec.kind == "cpu":
        return shape.flops / _CPU_FLOPS
    return _SLACK * least_latency_s(spec, shape)


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(typing.cast(float, value))


def _is_latency(value: object) -> bool:
    return _is_number(value) and _LEAST_S <= typing.cast(float, value) <= _MOST_S


def _record(kind: type[Record], text: object) -> Record:
    try:
        found = from_mapping(kind, _object(text))
    except ValueError as error:
        raise AnswerError(f"a worker sent no {kind.__name__} ({cut(error)})") from None
    _check_types(found)
    return found


def _object(text: object) -> Mapping[str, Any]:
    found = _json(text)
    _require(isinstance(found, dict), "no object")
    return typing.cast(Mapping[str, Any], found)


def _json(text: object) -> object:
    _require(isinstance(text, str) and len(text) <= _CHARACTERS, "no text of a usual length")
    try:
        return json.loads(typing.cast(str, text))
    except (ValueError, RecursionError):
        raise AnswerError("a worker sent no JSON") from None


def _check_types(record: Any) -> None:
    """Refuse a record whose fields are not of the types that they are annotated with."""
    for name, hint in typing.get_type_hints(type(record)).items():
        _require(_conforms(getattr(record, name), hint), f"a {name} of another type")


def _conforms(value: object, hint: Any) -> bool:
    """Whether a value that JSON gave is of the annotated type; numbers are finite."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        return any(_conforms(value, each) for each in inner)
    if kind is tuple:
        whole = isinstance(value, tuple) and len(value) <= _ENTRIES
        return whole and all(_conforms(each, inner[0]) for each in typing.cast(tuple[Any], value))
    if kind in (dict, Mapping):
        whole = isinstance(value, dict) and len(value) <= _ENTRIES
        pairs = typing.cast(dict[Any, Any], value).items() if whole else ()
        return whole and all(_conforms(k, inner[0]) and _conforms(v, inner[1]) for k, v in pairs)
    if kind is typing.Literal:
        return value in inner
    if kind is float:
        return _is_number(value)
    if kind is str:
        return isinstance(value, str) and value == one_line(value)[: 10 * _ERROR_CHARACTERS]
    return type(value) is kind


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise AnswerError(f"a worker sent {what}")
