"""Check a finished tuning or an export: files, factors, parity, latency and quality."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from autotune.compress.companions import BACKEND_IR
from autotune.core.errors import AutotuneError, UsageError
from autotune.core.progress import Reporter
from autotune.devices.detect import cpu_features
from autotune.export.checks import check_export, check_hash, phase_of
from autotune.export.manifest import MANIFEST, Manifest, open_manifest
from autotune.profiler.backends import BACKENDS, make_backend
from autotune.report.builds import build_rows, put_builds
from autotune.results.checks import (
    Check,
    CheckKind,
    Finding,
    LatencyFacts,
    ParityFacts,
    QualityFacts,
    TimingFacts,
    Verification,
    run_check,
)
from autotune.results.record import TuneRecord
from autotune.results.result import RESULT, read_result
from autotune.results.verdict import Verdict

# Relative: how far a new interval may lie above the recorded one before the ratio counts as moved.
_MOVED = 0.05
_QUALITY_MOVED = 0.01
# Other runtimes than onnxruntime that a graph is compared in, by the backend of the tuning.
_RUNTIMES = {"openvino-cpu": ("OpenVINO",)}


def verify(folder: str | Path, reporter: Reporter | None = None) -> Verification:
    """Check the folder of a tuning, or of an export, and everything in it.

    Of a tuning: the hashes of its files, the forms in the checkpoint, the ONNX graphs against the
    checkpoint, the latency (timed alternately with the dense model), the quality on the same
    held-out data, and every export inside the folder; `report.html` then lists those exports too.
    Of an export: its hashes, and parity with its checkpoint.

    Raises:
        UsageError: the folder holds neither a tuning nor an export, or a result that cannot be
            read.
    """
    folder, reporter, record = Path(folder), reporter or Reporter(), None
    if (folder / MANIFEST).is_file():
        checks = check_export(folder, reporter)
    elif (folder / RESULT).is_file():
        record = read_result(folder)
        checks = _check_tuning(folder, record, reporter=reporter)
        for path in sorted(folder.glob(f"*/{MANIFEST}")):
            checks += check_export(path.parent, reporter)
            checks += _time_export(path.parent, record, reporter=reporter)
        _update_report(folder, record, checks=checks, reporter=reporter)
    else:
        raise UsageError(
            f"{folder} has neither {RESULT} nor {MANIFEST}; give the folder of a tuning or of an "
            "export"
        )
    return Verification(
        folder=str(folder),
        checks=tuple(checks),
        quality_verdict=record.quality_verdict if record else None,
        quality_lost=bool(record and record.quality_lost),
        floor_missed=bool(record and not record.keeps_floor),
        warnings=tuple(_warnings(record)) if record else (),
    )


def _warnings(record: TuneRecord) -> Iterator[str]:
    yield from processor_warnings(record)
    if not _has_openvino() and any(runtime for _, runtime in _all_graphs(record)):
        yield "OpenVINO is not installed here, so the graphs are not compared in it"


def processor_warnings(record: TuneRecord) -> Iterator[str]:
    """What differs between this processor and the one that was tuned for, and matters."""
    if not record.cpu_features:
        return
    here, then = set(cpu_features()), set(record.cpu_features)
    for names, verb in ((then - here, "lacks"), (here - then, "has also")):
        if names:
            yield (
                f"this processor {verb} {', '.join(sorted(names))}: the latency, and numbers in "
                "bf16 or integers, may differ from what was tuned"
            )


def _update_report(
    folder: Path, record: TuneRecord, *, checks: list[Check], reporter: Reporter
) -> None:
    try:
        put_builds(folder / "report.html", build_rows(record, checks))
    except (AutotuneError, OSError) as error:  # a folder that is only readable
        reporter.note(f"report.html was not updated: {error}")


def _check_tuning(folder: Path, record: TuneRecord, *, reporter: Reporter) -> list[Check]:
    checks = [
        run_check(partial(check_hash, folder / name, expected), CheckKind.HASH, subject=name)
        for name, expected in record.files.items()
    ]
    if not record.files:
        reason = f"{RESULT} lists no files: an older version wrote it; run the tuning again"
        checks.append(Check(kind=CheckKind.HASH, subject="hashes", holds=False, reason=reason))
    checks.append(run_check(partial(_forms, folder, record), CheckKind.RANKS))
    checks += [
        run_check(
            partial(_parity, folder, name, record=record, runtime=runtime, reporter=reporter),
            CheckKind.PARITY,
            subject=f"{name} in {runtime}" if runtime else name,
            phase=phase_of(name) or "prefill",
        )
        for name, runtime in _graphs(record)
        if (folder / name).is_file()
    ]
    if record.measured is not None:
        checks.append(
            run_check(partial(_latency, folder, record, reporter=reporter), CheckKind.LATENCY)
        )
    checks.append(
        run_check(partial(_quality, folder, record, reporter=reporter), CheckKind.QUALITY)
    )
    return checks


def _forms(folder: Path, record: TuneRecord) -> Finding:
    import torch

    from autotune.compress.loading import load_checkpoint
    from autotune.tuning.checkpoint_forms import compare_forms

    return compare_forms(load_checkpoint(folder, torch.float32).model, record)


def _has_openvino() -> bool:
    return find_spec("openvino") is not None


def _graphs(record: TuneRecord) -> Iterator[tuple[str, str]]:
    """Those of all graphs whose runtime is installed here."""
    return (pair for pair in _all_graphs(record) if not pair[1] or _has_openvino())


def _all_graphs(record: TuneRecord) -> Iterator[tuple[str, str]]:
    """The graphs that are compared with the checkpoint, and in which runtime; "": onnxruntime.

    That of sentence-transformers' backend onnx is a copy, whose hash was compared.
    """
    for name in record.files:
        if phase_of(name) and "/" not in name:
            yield name, ""
            yield from ((name, runtime) for runtime in _RUNTIMES.get(record.backend, ()))
        if name == f"model/{BACKEND_IR}":
            yield name, "OpenVINO"


def _parity(
    folder: Path, name: str, *, record: TuneRecord, runtime: str, reporter: Reporter
) -> Finding:
    """Compare a graph with the checkpoint beside it, both in the dtype of the tuning.

    In onnxruntime, or in the `runtime` that the tuning was for, in the dtype that it was told.
    """
    from autotune.export.graphs import open_checkpoint
    from autotune.export.parity import NETWORKS, check_parity

    graph, where = folder / name, f" in {runtime}" if runtime else ""
    with reporter.stage(f"compare {graph.name} with the checkpoint{where}") as advance:
        network = NETWORKS[runtime](graph)
        loaded, dtype = open_checkpoint(folder, record.dtype)
        dtype = (runtime and record.runtime_dtype) or dtype
        phase = phase_of(name) or "prefill"
        found = check_parity(
            loaded, phase, network=network, dtype=dtype, what=graph.name, progress=advance
        )
    return Finding(facts=ParityFacts(worst=found.worst))


def _latency(folder: Path, record: TuneRecord, *, reporter: Reporter) -> Finding:
    """Measure the ratio again: it may miss the budget only if it has not moved."""
    from autotune.tuning.bench import bench

    now = bench(folder, reporter)
    tuned = record.measured
    assert tuned is not None
    facts = LatencyFacts(
        ratio=now.ratio,
        ratio_low=now.ratio_low,
        ratio_high=now.ratio_high,
        tuned_ratio=tuned.ratio,
        predicted_ratio=record.predicted_ratio,
        verdict=now.verdict,
    )
    if now.verdict is not Verdict.MISSED or not _has_moved(now.ratio_low, tuned.ratio_high):
        return Finding(facts=facts)
    return Finding(facts=facts, reason=_moved_text(now.ratio, tuned.ratio))


def _has_moved(ratio_low: float, tuned_high: float) -> bool:
    return ratio_low > tuned_high * (1 + _MOVED)


def _moved_text(ratio: float, tuned_ratio: float) -> str:
    return f"measured {ratio:.3f} of the dense latency now, {tuned_ratio:.3f} when tuned"


def _quality(folder: Path, record: TuneRecord, *, reporter: Reporter) -> Finding:
    """Compute the held-out figure of the checkpoint again, on the data of the tuning."""
    from autotune.tuning.heldout import judge_again

    found, expected = judge_again(folder, record, reporter=reporter), record.quality.compressed
    facts = QualityFacts(metric=record.quality.metric, value=found, tuned=expected)
    if abs(found - expected) <= _QUALITY_MOVED * abs(expected):
        return Finding(facts=facts)
    return Finding(facts=facts, reason=f"{found:.4g} now, {expected:.4g} when tuned")


def _time_export(folder: Path, record: TuneRecord, *, reporter: Reporter) -> list[Check]:
    """Time those graphs against the dense model that the tuning's backend runs in its dtype."""
    manifest = open_manifest(folder)
    if record.measured is None or not _runs_export(record, manifest):
        return []
    return [
        run_check(
            partial(_export_latency, folder, name, record=record, reporter=reporter),
            CheckKind.LATENCY,
            subject=f"{folder.name}/{name}",
            export=folder.name,
            phase=phase_of(name),
        )
        for name in manifest.parity
        if phase_of(name) in record.workload.passes
    ]


def _runs_export(record: TuneRecord, manifest: Manifest) -> bool:
    # An export says nothing of the dtype that its runtime is to be told.
    told = record.runtime_dtype is not None
    if manifest.format != "onnx" or manifest.dtype != record.dtype or told:
        return False
    # A result may name the backend of a distribution that is not installed here.
    return record.backend in BACKENDS and make_backend(record.backend).opens_onnx


def _export_latency(folder: Path, name: str, *, record: TuneRecord, reporter: Reporter) -> Finding:
    from autotune.tuning.bench import time_pass

    phase = phase_of(name)
    timed = time_pass(
        folder.parent, record, phase=phase, compressed=folder / name, reporter=reporter
    )
    tuned = record.phase(phase)
    facts = TimingFacts(
        latency_s=timed.latency_s,
        ratio=timed.ratio,
        ratio_low=timed.ratio_low,
        ratio_high=timed.ratio_high,
    )
    if not _has_moved(timed.ratio_low, tuned.ratio_high):
        return Finding(facts=facts)
    return Finding(facts=facts, reason=_moved_text(timed.ratio, tuned.ratio))
