"""A tuning in a few lines of text: for the terminal, the report and error messages."""

from __future__ import annotations

from pathlib import Path

from autotune.core.quantities import format_bytes, format_count, format_seconds
from autotune.report.next_steps import gain_lines, next_lines
from autotune.results.bench_record import BenchRecord
from autotune.results.job_summary import TuneSummary
from autotune.results.measured import Measured
from autotune.results.quality_verdict import QualityVerdict
from autotune.results.record import TuneRecord
from autotune.results.verdict import Verdict

# From this share of disturbed windows on, the message of a miss mentions other work.
_BUSY_SHARE = 0.25
_WRITTEN = ("model", "model.onnx", "model_decode.onnx", "report.html", "result.json")


def summary(record: TuneRecord, folder: Path) -> list[str]:
    """What a finished tuning prints."""
    budget = ", ".join(f"{name} {text}" for name, text in record.budget.items())
    quality = record.quality
    return [
        f"{record.model} on {record.device.device_name}, {record.backend}"
        f"{in_runtime_dtype(record)}, {record.workload.text}",
        f"budget      {budget}: {_budget_state(record)}",
        *_latency_lines(record),
        *_phase_lines(record),
        *_timing_lines(record),
        f"quality     {quality.metric} {quality.compressed:.4f} (dense {quality.dense:.4f})"
        f"{_quality_state(record)}; {quality.protocol}",
        *_neighbour_lines(record),
        *_shape_lines(record),
        *_backend_lines(record),
        *_reference_lines(record),
        *_front_lines(record),
        f"parameters  {format_count(record.parameters.compressed)} of "
        f"{format_count(record.parameters.dense)}, {format_bytes(record.stored_bytes.compressed)} "
        f"of {format_bytes(record.stored_bytes.dense)}; {len(record.factorized)} of "
        f"{len(record.sites)} sites factorized",
        f"written     {folder}/: {', '.join(_written(folder))}",
        *gain_lines(record),
        *next_lines(record, folder),
    ]


def _neighbour_lines(record: TuneRecord) -> list[str]:
    """What of the nearest neighbours stays, of models that make embeddings."""
    shared = record.quality.neighbour_overlap
    if shared is None:
        return []
    return [f"            {shared:.1%} of the ten nearest neighbours are the same"]


def _shape_lines(record: TuneRecord) -> list[str]:
    """Ratios at other shapes, and the throughput of several streams."""
    alone = [one for one in record.other_shapes if one.streams == 1]
    texts = [f"{one.batch_size} x {one.sequence_length}: {one.ratio:.3f}" for one in alone]
    lines = [f"shapes      ratio at {', '.join(texts)} tokens"] if texts else []
    lines += [
        f"streams     {one.streams} at once: {one.throughput_gain:.2f} times the dense throughput"
        for one in record.other_shapes
        if one.streams > 1
    ]
    return lines


def _backend_lines(record: TuneRecord) -> list[str]:
    """The dense model in every backend, and what was gained against the fastest of them."""
    found = sorted(record.dense_latencies_s.items(), key=lambda one: one[1])
    if not found or record.measured is None:
        return []
    texts = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in found)
    gains = ", ".join(
        f"{record.measured.latency_s / seconds:.3f} of {name}" for name, seconds in found
    )
    return [f"backends    dense: {texts}", f"            this result: {gains}"]


def _reference_lines(record: TuneRecord) -> list[str]:
    """What else was measured in the run, for comparison."""
    points = [point for point in record.compared if not point.handed_out]
    texts = [
        f"{one.name}: ratio {one.ratio:.3f}, {record.quality.metric} {one.quality:.4f}"
        for one in points
    ]
    if not texts:
        return []
    lines = [f"compared    {texts[0]}", *(f"            {text}" for text in texts[1:])]
    handed_out = next((one.name for one in record.compared if one.handed_out), "")
    if handed_out == record.solver.name:  # a reference point, which no allocator chose
        lines.append(f"            handed out is the reference point {handed_out}")
    return lines


def _front_lines(record: TuneRecord) -> list[str]:
    """The plans of the front by latency and quality."""
    points = sorted((point.ratio, point.quality) for point in record.front)
    if not points:
        return []
    text = ", ".join(f"{ratio:.3f}: {quality:.4f}" for ratio, quality in points)
    return [f"front       {text}; hand out another one with `autotune pick`"]


def in_runtime_dtype(record: TuneRecord) -> str:
    """` in bf16` where the runtime is told to run the network in another dtype than its weights."""
    return f" in {record.runtime_dtype}" if record.runtime_dtype else ""


def bench_lines(record: BenchRecord) -> list[str]:
    """The lines that `autotune bench` prints of its record."""
    state = _state(
        record.verdict,
        record.budget_ratio,
        ratio_low=record.ratio_low,
        ratio_high=record.ratio_high,
    )
    return [
        f"latency {format_seconds(record.latency_s)} against "
        f"{format_seconds(record.dense_latency_s)} dense, paired ratio {record.ratio:.3f} (95 % "
        f"interval: "
        f"{record.ratio_low:.3f} to {record.ratio_high:.3f}); when tuned {record.tuned_ratio:.3f}",
        f"budget {state}",
    ]


def verdict_text(record: TuneRecord) -> str:
    """Sentences about whether the budget is met and the quality kept, for the report."""
    return " ".join(filter(None, (_budget_text(record), quality_text(record))))


def _budget_text(record: TuneRecord) -> str:
    measured = record.measured
    if not record.keeps_floor:
        return f"The quality floor is missed: {_floor_text(record)}."
    if measured is None:
        absent = "Nothing was measured, because the device was not present."
        if record.verdict is Verdict.UNDECIDED:
            return (
                "The prediction does not decide whether the model meets the budget: the interval "
                f"of its ratio, {_interval(_judged(record))}, contains the limit "
                f"{_limit(record):.3f}. {absent}"
            )
        verb = "meet" if record.verdict is Verdict.MET else "miss"
        return f"The model is predicted to {verb} the budget. {absent}"
    if record.verdict is Verdict.UNDECIDED:
        return (
            "The measurement does not decide whether the model meets the budget: the interval of "
            f"its ratio, {_interval(measured)}, contains the limit {_limit(record):.3f}."
        )
    if record.verdict is Verdict.MET:
        return "The measured model meets the budget."
    slower = " It is slower than the dense model." if measured.ratio_low > 1.0 else ""
    return f"The measured model misses the budget.{slower}"


def _floor_text(record: TuneRecord) -> str:
    """The figure and the floor that it does not keep."""
    quality = record.quality
    return (
        f"{quality.metric} {quality.compressed:.4g} on held-out data (dense {quality.dense:.4g}), "
        f"where {record.quality_floor} was asked for"
    )


def quality_text(record: TuneRecord) -> str:
    """A sentence about the quality, for the report and a warning; empty where it is kept."""
    quality = record.quality
    figures = f"{quality.metric} {quality.compressed:.4g}, dense {quality.dense:.4g}"
    if record.quality_verdict is QualityVerdict.LOST:
        return f"The quality is lost ({figures}): it is {quality.limit_text}."
    if record.quality_verdict is QualityVerdict.REDUCED:
        return f"The quality is visibly reduced ({figures})."
    return ""


def loss_text(record: TuneRecord) -> str:
    """The sentence that goes with exit code 1 where the quality is lost."""
    quality = record.quality
    return (
        f"the quality is lost: {quality.metric} {quality.compressed:.4g} (dense "
        f"{quality.dense:.4g}) is {quality.limit_text}; the result has been written; give a looser "
        "budget, or --allow-quality-loss to accept it"
    )


def miss_text(record: TuneRecord, *, rounds_left: bool = False) -> str:
    """The sentence that goes with exit codes 1 and 5; `rounds_left`: not all rounds were used."""
    measured = record.measured
    if not record.keeps_floor:
        return (
            f"the quality floor is missed: {_floor_text(record)}; the result has been written; ask "
            "for a somewhat higher floor, or give more --calibration-samples"
        )
    if measured is None and record.verdict is Verdict.UNDECIDED:
        return (
            "the prediction does not decide whether the budget is met: the 90 % interval of the "
            f"ratio, {_interval(_judged(record))}, contains the limit {_limit(record):.3f}; "
            "measure on the device (there, or on a farm), or give a looser budget"
        )
    if measured is None:
        return (
            f"the model is predicted to miss the budget (ratio {record.predicted_ratio:.3f} to the "
            "dense latency); give a looser budget"
        )
    if record.verdict is Verdict.UNDECIDED:
        return (
            "the measurement does not decide whether the budget is met: the interval of the ratio, "
            f"{_interval(measured)}, contains the limit {_limit(record):.3f}"
            f"{_disturbed(measured)}; measure again with `autotune bench`, or give more "
            "--measure-seconds or a looser budget"
        )
    if measured.ratio_low > 1.0:
        return (
            f"the compressed model is slower than the dense one (ratio {measured.ratio:.3f}); use "
            "the dense model on this device"
        )
    return (
        f"the measured model misses the budget (ratio {measured.ratio:.3f} to the dense latency)"
        f"{_disturbed(measured)}; the result has been written; {_miss_advice(rounds_left)}"
    )


def _miss_advice(rounds_left: bool) -> str:
    """Rounds that were left were not used because none of them would have had another plan."""
    if rounds_left:
        return "further rounds would build no other plan; give a looser budget"
    return "give more --rounds or a looser budget"


def _disturbed(measured: Measured) -> str:
    """How busy the machine was, where that may have decided."""
    share = measured.disturbed_windows / max(measured.windows, 1)
    if share < _BUSY_SHARE:
        return ""
    return (
        f" (other work disturbed {measured.disturbed_windows} of {measured.windows} windows of "
        "the measurement)"
    )


def outcome_text(result: TuneSummary) -> str:
    """Ratio and verdict of a tuning, for a list of jobs."""
    lost = result.quality_verdict is QualityVerdict.LOST
    quality = ", quality LOST" if lost else ""
    return f"{result.ratio:.3f}x of dense, budget {_word(result.verdict)}{quality}"


def _quality_state(record: TuneRecord) -> str:
    """What the quality has come to, unless it is kept; a loss stands out."""
    if record.quality_verdict is QualityVerdict.LOST:
        allowed = " (allowed)" if record.allow_quality_loss else ""
        return f": LOST, {record.quality.limit_text}{allowed}"
    return ": reduced" if record.quality_verdict is QualityVerdict.REDUCED else ""


def _budget_state(record: TuneRecord) -> str:
    measured = record.measured
    judged = measured or _judged(record)
    return _state(
        record.verdict, _limit(record), ratio_low=judged.ratio_low, ratio_high=judged.ratio_high
    )


def _judged(record: TuneRecord) -> Measured:
    """The phases as they were measured, or predicted with their 90 % intervals."""
    return Measured(passes=tuple(phase.timing for phase in record.phases))


def _state(verdict: Verdict, limit: float, *, ratio_low: float, ratio_high: float) -> str:
    if verdict is not Verdict.UNDECIDED:
        return _word(verdict)
    interval = f"{ratio_low:.3f} to {ratio_high:.3f}"
    return f"undecided: the interval {interval} contains the limit {limit:.3f}"


def _word(verdict: Verdict) -> str:
    """The verdict; a miss stands out."""
    return verdict.value.upper() if verdict is Verdict.MISSED else verdict.value


def _limit(record: TuneRecord) -> float:
    return 1.0 if record.limit_ratio is None else record.limit_ratio


def _interval(measured: Measured) -> str:
    return f"{measured.ratio_low:.3f} to {measured.ratio_high:.3f}"


def _latency_lines(record: TuneRecord) -> list[str]:
    """Measured, or predicted and from which sources."""
    dense, measured = format_seconds(record.dense_latency_s), record.measured
    if measured is not None:
        return [
            f"latency     {format_seconds(measured.latency_s)} against {dense} dense, paired "
            f"ratio {measured.ratio:.3f} (95 % interval: {_interval(measured)}), predicted "
            f"{record.predicted_ratio:.3f}"
        ]
    low = format_seconds(record.predicted_latency_low_s)
    high = format_seconds(record.predicted_latency_high_s)
    return [
        "latency     PREDICTED, the device is not present: "
        f"{format_seconds(record.predicted_latency_s)} ({low} to {high}) against {dense} dense, "
        f"ratio {record.predicted_ratio:.3f}",
        *(f"            from {source}" for source in record.predicted_from),
    ]


def _timing_lines(record: TuneRecord) -> list[str]:
    """How many layer timings settled, where layers were measured."""
    return [f"timings     {record.layer_timings.text}"] if record.layer_timings else []


def _phase_lines(record: TuneRecord) -> list[str]:
    """The phases of a request, one by one."""
    if len(record.phases) == 1:
        return []
    ratio = "ratio" if record.measured is None else "paired ratio"
    return [
        f"  {phase.name:8s}  {phase.count} x {format_seconds(phase.latency_s)} against "
        f"{format_seconds(phase.dense_latency_s)}, {ratio} {phase.ratio:.3f}, predicted "
        f"{phase.predicted_ratio:.3f}"
        for phase in record.phases
    ]


def _written(folder: Path) -> list[str]:
    found = [folder / name for name in _WRITTEN if (folder / name).exists()]
    return [f"{path.name}/" if path.is_dir() else path.name for path in found]
