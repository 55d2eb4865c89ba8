"""What forms gain: rows of model, backend and budget, tuned one by one and measured by turns.

    python benchmarks/forms.py --output WORK [--lm code-llama-28m] [--only minilm] [--seconds 60]

Every row is a tuning as a user runs it, in a folder of its own below WORK; all share one latency
database. Rows of one model and workload are then opened in one process and timed by turns, beside
the dense model of every backend and the reference points of the tunings, so their ratios compare.
Rows whose folder has a result are not tuned again, groups that WORK/measured.jsonl holds are not
measured again. `--lm` is a folder with heldout.txt, of which the first half calibrates and the last
sixteenth judges: every reference point is judged as well. Prints one table; the last line is one
JSON list.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import autotune
from autotune.core.errors import AutotuneError, ExitCode
from autotune.profiler.backends import make_backend
from autotune.profiler.measure.timing import TimingPolicy, time_interleaved
from autotune.results.record import TuneRecord
from autotune.results.result import RESULT, read_result

_ORT, _OPENVINO = "onnxruntime-cpu", "openvino-cpu"
_MEASURED = "measured.jsonl"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row: a model with its workload, a backend and a budget."""

    group: str
    backend: str
    budget: Mapping[str, str]
    model: str | None = None
    workload: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of the row's folder."""
        limits = "-".join(f"{name}-{text}" for name, text in self.budget.items())
        return f"{self.group}-{self.backend}-{limits}".replace(" ", "")


def cases(lm: str | None) -> Iterator[Case]:
    """All rows, models of text first."""
    floor = {"quality_floor": "0.99"}
    for group, shape in (("minilm-8x128", (8, 128)), ("minilm-1x32", (1, 32))):
        workload = {"batch_size": shape[0], "isl": shape[1]}
        for backend, limits in ((_OPENVINO, ("0.5x", "0.4x")), (_ORT, ("0.6x", "0.5x"))):
            for budget in (*({"latency_budget": limit} for limit in limits), floor):
                yield Case(group=group, backend=backend, budget=budget, workload=workload)
    if lm is None:
        return
    prefill = {"batch_size": 1, "isl": 512}
    for limit in ("0.65x", "0.55x"):
        yield Case(
            group="lm-prefill-1x512",
            backend=_ORT,
            budget={"latency_budget": limit},
            model=lm,
            workload=prefill,
        )
    for batch in (1, 4, 16):
        yield Case(
            group=f"lm-decode-{batch}",
            backend=_ORT,
            budget={"latency_budget": "0.5x"},
            model=lm,
            workload={"batch_size": batch, "isl": 128, "phase": "decode"},
        )


def main() -> None:
    """Tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--lm", help="folder of a causal language model with heldout.txt")
    parser.add_argument("--only", default="", help="rows whose name contains this text")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seconds", type=float, default=60.0, help="to time one group in")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    wanted = [case for case in cases(options.lm) if options.only in case.name]
    folders = {case: _tuned(case, options.output, precision=options.precision) for case in wanted}
    rows: list[dict[str, Any]] = []
    for group in dict.fromkeys(case.group for case in wanted):
        found = {c: f for c, f in folders.items() if c.group == group and f is not None}
        if found:
            rows += _measured(group, found, home=options.output, seconds=options.seconds)
    _print_table(rows)
    print(json.dumps(rows))


def _tuned(case: Case, home: Path, *, precision: str) -> Path | None:
    """The folder of a row's result, tuned now if there is none; None where no plan is possible."""
    folder = home / case.name
    if not (folder / RESULT).is_file():
        texts = _texts(case.model, home) if case.model else {}
        given: dict[str, Any] = {**case.budget, **case.workload, **texts}
        print(f"tuning {case.name}", flush=True)
        try:
            autotune.tune(
                case.model,
                output=folder,
                backend=case.backend,
                precision=precision,
                database=home / "latency.sqlite",
                allow_quality_loss=True,
                **given,
            )
        except AutotuneError as error:
            if error.exit_code != ExitCode.INFEASIBLE:
                raise
            print(f"{case.name}: {error}", flush=True)
            return None
    return folder


def _texts(model: str, home: Path) -> dict[str, Path]:
    """Calibration and evaluation text: the first half and the last sixteenth of heldout.txt."""
    lines = (Path(model) / "heldout.txt").read_text().splitlines()
    parts = {
        "calibration": lines[: len(lines) // 2],
        "evaluation": lines[15 * len(lines) // 16 :],
    }
    found = {name: home / f"{name}.txt" for name in parts}
    for name, path in found.items():
        path.write_text("\n".join(parts[name]))
    return found


def _measured(
    group: str, folders: Mapping[Case, Path], *, home: Path, seconds: float
) -> list[dict[str, Any]]:
    """The rows of one group, measured by turns; known where the same folders were measured."""
    journal = home / _MEASURED
    lines = (
        [json.loads(line) for line in journal.read_text().splitlines()]
        if (journal.is_file())
        else []
    )
    names = sorted(case.name for case in folders)
    for line in lines:
        if line["group"] == group and line["names"] == names:
            return list(line["rows"])
    records = {case: read_result(folder) for case, folder in folders.items()}
    dense = _dense_builds(folders, records)
    subjects = [(backend, build) for backend, build in dense.items()]
    subjects += [(case.backend, _build(folders[case], records[case])) for case in folders]
    ratios = _by_turns(subjects, _inputs(folders, records), seconds=seconds)
    latency = dict(zip(dense, ratios, strict=False))
    rows = []
    for (case, record), ratio in zip(records.items(), ratios[len(dense) :], strict=True):
        rows.append(
            {
                "model": record.model,
                "workload": record.workload.text,
                "backend": case.backend,
                "budget": dict(case.budget),
                "ratio": ratio / latency[case.backend],
                "ratio_to_ort_fp32": ratio / latency[_ORT] if _ORT in latency else None,
                "quality": record.quality.compressed,
                "dense_quality": record.quality.dense,
                "metric": record.quality.metric,
                "verdict": str(record.verdict),
                "tuned_ratio": record.ratio,
                "predicted_ratio": record.predicted_ratio,
                "runtime_dtype": record.runtime_dtype,
                "handed_out": record.solver.name,
                "forms": _forms(record),
                "compared": {one.name: [one.ratio, one.quality] for one in record.compared},
                "seconds": record.cost.seconds,
            }
        )
    with journal.open("a") as file:
        file.write(json.dumps({"group": group, "names": names, "rows": rows}) + "\n")
    return rows


def _dense_builds(
    folders: Mapping[Case, Path], records: Mapping[Case, TuneRecord]
) -> dict[str, Path]:
    """The dense model of every backend, that of onnxruntime first."""
    found = {
        case.backend: folders[case] / _phase_build(record).dense for case, record in records.items()
    }
    return {name: found[name] for name in sorted(found)}


def _phase_build(record: TuneRecord) -> Any:
    (build,) = record.builds.values()
    return build


def _build(folder: Path, record: TuneRecord) -> Path:
    path: Path = folder / _phase_build(record).compressed
    return path


def _inputs(folders: Mapping[Case, Path], records: Mapping[Case, TuneRecord]) -> Path:
    case, record = next(iter(records.items()))
    path: Path = folders[case] / _phase_build(record).inputs
    return path


def _by_turns(subjects: Sequence[tuple[str, Path]], inputs: Path, *, seconds: float) -> list[float]:
    """Latency of each network / that of the first, timed by turns in this process."""
    threads = autotune.MachineOptions().threads or _cores()
    runners = [
        make_backend(backend, "cpu").network(build, inputs, threads=threads)
        for backend, build in subjects
    ]
    policy = TimingPolicy(
        rounds_per_window=3, min_windows=6, max_seconds=seconds, target_relative_ci=0.003
    )
    return list(time_interleaved(runners, policy).ratios)


def _cores() -> int:
    from autotune.devices.detect import default_threads

    return default_threads()


def _forms(record: TuneRecord) -> dict[str, int]:
    """How many layers have which kind of form."""
    counts: dict[str, int] = {}
    for site in record.sites:
        kind = str(site.form) if site.form.is_dense else f"rank{site.form.suffix}"
        counts[kind] = counts.get(kind, 0) + site.layer_count
    return counts


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    print(
        "| model | workload | backend | budget | ratio | to ORT fp32 | quality | verdict | forms |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        budget = " ".join(row["budget"].values())
        to_ort = row["ratio_to_ort_fp32"]
        forms = ", ".join(f"{count} {form}" for form, count in row["forms"].items())
        dtype = f" ({row['runtime_dtype']})" if row["runtime_dtype"] else ""
        print(
            f"| {row['model']} | {row['workload']} | {row['backend']}{dtype} | {budget} | "
            f"{row['ratio']:.3f} | {'' if to_ort is None else f'{to_ort:.3f}'} | "
            f"{row['metric']} {row['quality']:.4f} | {row['verdict']} | {forms} |"
        )


if __name__ == "__main__":
    main()
