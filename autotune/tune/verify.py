"""Whether what a run handed out still holds: files, factors, parity, latency and quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.errors import AutotuneError, UsageError
from autotune.core.files import file_sha256
from autotune.core.progress import Reporter
from autotune.export.onnx import MANIFEST, read_manifest
from autotune.report.builds import Artefact, put_artefacts, tuned_artefacts
from autotune.results.result import read_result

if TYPE_CHECKING:
    from autotune.compress.loading import LoadedModel

# Of the tuned ratio: how far a ratio measured again may be beyond both intervals.
_MOVED = 0.05
_QUALITY_MOVED = 0.01
_TIMED = ("latency_s", "ratio", "ratio_low", "ratio_high")
Finding = dict[str, Any]


def verify(folder: str | Path, reporter: Reporter | None = None) -> dict[str, Any]:
    """Check a run's folder, or an export's, and everything that it holds.

    A run: the hashes of what it handed out, the ranks in the checkpoint, `model.onnx` against the
    checkpoint, its latency in turn with the dense model's, its quality on the same held-out data,
    and every export inside the folder; its report then tells of those too. An export: its hashes,
    and parity with its checkpoint.

    Returns:
        `valid`, and `findings`: what was checked, whether it holds, and the reason if not.

    Raises:
        UsageError: neither a run nor an export is there.
    """
    folder, reporter = Path(folder), reporter or Reporter()
    findings: list[Finding] = []
    if (folder / MANIFEST).is_file():
        _check_export(folder, findings, reporter)
    elif (folder / "result.json").is_file():
        record = _check_run(folder, findings, reporter)
        for path in sorted(folder.glob(f"*/{MANIFEST}")):
            _check_export(path.parent, findings, reporter)
            _time_export(path.parent, record, findings, reporter)
        try:
            put_artefacts(folder / "report.html", found_artefacts(record, findings))
        except (AutotuneError, OSError) as error:  # a folder that is only to be read
            reporter.note(f"report.html stays as it was: {error}")
    else:
        raise UsageError(f"{folder} holds neither result.json nor {MANIFEST}; give a run's folder")
    return {
        "folder": str(folder),
        "valid": all(finding["holds"] for finding in findings),
        "findings": findings,
    }


def _look(findings: list[Finding], what: str, check: Callable[[], Mapping[str, Any]]) -> None:
    """Add what `check` finds; an error that it raises is the reason why something does not hold."""
    try:
        found = dict(check())
    except (AutotuneError, OSError, KeyError, ValueError) as error:
        found = {"holds": False, "reason": str(error)}
    findings.append({"check": what, "holds": True, "reason": "", **found})


def found_artefacts(record: Mapping[str, Any], findings: Sequence[Finding]) -> list[Artefact]:
    """What the tuning built, as it was, and every export with what was found of it now."""
    rows = tuned_artefacts(record)
    predicted = {one["name"]: one["predicted_ratio"] for one in record["passes"]}
    known = {finding["check"]: finding for finding in findings}
    for check, found in known.items():
        kind, _, name = check.partition(" of ")
        if kind == "parity" and "/" in name:
            run = _run_of(Path(name).name)
            timed = known.get(f"latency of {name}", {})
            rows.append(
                Artefact(
                    name=name, run=run, predicted_ratio=predicted.get(run) if timed else None,
                    parity=found.get("worst"), wrong=found["reason"] or timed.get("reason", ""),
                    **{key: timed[key] for key in _TIMED if key in timed},
                )
            )  # fmt: skip
        elif kind == "engine":
            run = Path(name).name
            rows.append(
                Artefact(
                    name=name, run=run, latency_s=found.get("latency_s"),
                    parity=found.get("worst"), wrong=found["reason"],
                )
            )  # fmt: skip
    return rows


def _run_of(graph: str) -> str:
    from autotune.compress.onnx_checkpoint import GRAPHS

    return next(run for run, name in GRAPHS.items() if name == graph)


def _check_run(folder: Path, findings: list[Finding], reporter: Reporter) -> Mapping[str, Any]:
    record = read_result(folder)
    files = record.get("files", {})
    for name, expected in files.items():
        _look(findings, name, lambda n=name, e=expected: _hash(folder / n, e))  # type: ignore[misc]
    if not files:
        findings.append({
            "check": "hashes", "holds": False,
            "reason": "result.json names no files: it was written by an older version; tune again",
        })  # fmt: skip
    _look(findings, "ranks", lambda: _ranks(folder, record))
    if (folder / "model.onnx").is_file():
        _look(findings, "parity of model.onnx", lambda: _parity(folder, "prefill", reporter))
    if (folder / "model_decode.onnx").is_file():
        _look(findings, "parity of model_decode.onnx", lambda: _parity(folder, "decode", reporter))
    if record["measured_ratio"] is not None:
        _look(findings, "latency", lambda: _latency(folder, record, reporter))
    _look(findings, "quality", lambda: _quality(folder, record, reporter))
    return record


def _hash(path: Path, expected: str) -> Finding:
    if not path.is_file():
        return {"holds": False, "reason": f"{path} is gone"}
    if file_sha256(path) != expected:
        return {"holds": False, "reason": f"{path} is not what was handed out (sha256 differs)"}
    return {}


def _ranks(folder: Path, record: Mapping[str, Any]) -> Finding:
    from autotune.export.graphs import ranks

    sites = [site for site in record["sites"] if site["rank"] is not None]
    expected = {name: site["rank"] for site in sites for name in site["layers"]}
    found = ranks(_load(folder))
    if found != expected:
        wrong = sorted(set(found.items()) ^ set(expected.items()))
        return {"holds": False, "reason": f"the checkpoint has other ranks, first {wrong[0]}"}
    return {"layers": len(found)}


def _load(folder: Path) -> LoadedModel:
    import torch

    from autotune.compress.loading import load_checkpoint

    return load_checkpoint(folder, torch.float32)


def _parity(folder: Path, run: str, reporter: Reporter) -> Finding:
    from autotune.compress.onnx_checkpoint import GRAPHS
    from autotune.export.parity import check_parity, onnx_runs

    graph = folder / GRAPHS[run]
    with reporter.stage(f"compare {graph.name} with the checkpoint") as advance:
        runs = onnx_runs(graph)
        cases = check_parity(_load(folder), run, runs, "fp32", graph.name, progress=advance)
    return {"worst": max(case["error"] for case in cases)}


def _latency(folder: Path, record: Mapping[str, Any], reporter: Reporter) -> Finding:
    """The ratio again: within the budget, or as it was."""
    from autotune.tune.bench import bench

    now = bench(folder, reporter)
    facts = {key: now[key] for key in ("ratio", "ratio_low", "ratio_high", "tuned_ratio")}
    facts["predicted_ratio"] = record["predicted_ratio"]
    if now["within_budget"] or now["ratio_low"] <= record["measured_ratio_high"] * (1 + _MOVED):
        return facts
    return {
        **facts, "holds": False,
        "reason": f"measured {now['ratio']:.3f} of dense now, {now['tuned_ratio']:.3f} when tuned",
    }  # fmt: skip


def _quality(folder: Path, record: Mapping[str, Any], reporter: Reporter) -> Finding:
    """The held-out figure of the checkpoint again, on the data that the run kept."""
    from autotune.tune.heldout import judge_again

    found = judge_again(folder, record, reporter)
    expected = record["quality"]["compressed"]
    facts = {"metric": record["quality"]["metric"], "value": found, "tuned": expected}
    if abs(found - expected) <= _QUALITY_MOVED * abs(expected):
        return facts
    return {**facts, "holds": False, "reason": f"{found:.4g} now, {expected:.4g} when tuned"}


def _check_export(folder: Path, findings: list[Finding], reporter: Reporter) -> None:
    facts = read_manifest(folder)
    for name, expected in facts["files"].items():
        where = f"{folder.name}/{name}"
        _look(findings, where, lambda n=name, e=expected: _hash(folder / n, e))  # type: ignore[misc]
    for name in facts["parity"]:
        what = f"parity of {folder.name}/{name}"
        _look(findings, what, lambda n=name: _export_parity(folder, n, facts, reporter))  # type: ignore[misc]
    for run in facts.get("engines", {}):
        what = f"engine of {folder.name}/{run}"
        _look(findings, what, lambda r=run: _engine(folder, r, facts, reporter))  # type: ignore[misc]


def _time_export(
    folder: Path, record: Mapping[str, Any], findings: list[Finding], reporter: Reporter
) -> None:
    """Graphs that the run's own backend runs, in its dtype, against the run's dense model."""
    facts = read_manifest(folder)
    runs_it = record["backend"].startswith("onnxruntime") and facts["format"] == "onnx"
    if record["measured_ratio"] is None or not runs_it or facts["dtype"] != record["dtype"]:
        return
    for name in facts["parity"]:
        if _run_of(name) in record["artefacts"]:
            what = f"latency of {folder.name}/{name}"
            _look(findings, what, lambda n=name: _export_latency(folder, n, record, reporter))  # type: ignore[misc]


def _export_latency(
    folder: Path, name: str, record: Mapping[str, Any], reporter: Reporter
) -> Finding:
    from autotune.tune.bench import time_pass

    run = _run_of(name)
    timed = time_pass(folder.parent, record, run, folder / name, reporter)
    tuned = next(one for one in record["passes"] if one["name"] == run)
    found = {key: getattr(timed, key) for key in _TIMED}
    if timed.ratio_low <= tuned["ratio_high"] * (1 + _MOVED):
        return found
    was = tuned["ratio"]
    return {**found, "holds": False, "reason": f"{timed.ratio:.3f} of dense, {was:.3f} when tuned"}


def _export_parity(
    folder: Path, name: str, facts: Mapping[str, Any], reporter: Reporter
) -> Finding:
    from autotune.compress.onnx_checkpoint import GRAPHS
    from autotune.export.graphs import open_checkpoint
    from autotune.export.parity import check_parity, onnx_runs

    graph = folder / name
    (run,) = (run for run, file in GRAPHS.items() if file == graph.name)
    loaded, kind = open_checkpoint(folder / facts["checkpoint"], facts["dtype"])
    if loaded.weights_sha256 != facts["weights_sha256"]:
        return {"holds": False, "reason": f"{facts['checkpoint']} holds other weights now"}
    with reporter.stage(f"compare {graph.name} with the checkpoint") as advance:
        cases = check_parity(loaded, run, onnx_runs(graph), kind, graph.name, progress=advance)
    return {"worst": max(case["error"] for case in cases)}


def _engine(folder: Path, run: str, facts: Mapping[str, Any], reporter: Reporter) -> Finding:
    """The engine loads in this TensorRT on this GPU, and computes what its graph does."""
    from autotune.compress.onnx_checkpoint import GRAPHS
    from autotune.core.types import Workload, from_mapping
    from autotune.export.graphs import open_checkpoint
    from autotune.export.tensorrt import compare_engine

    loaded, kind = open_checkpoint(folder / facts["checkpoint"], facts["dtype"])
    place, workload = folder / run, from_mapping(Workload, facts["workload"])
    found = compare_engine(loaded, run, place, place / GRAPHS[run], kind, workload, reporter)
    worst = max(case["error"] for case in found["cases"])
    return {"worst": worst, "latency_s": found["latency_s"]}
