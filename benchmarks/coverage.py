"""Every model class with a text, image or two-tower body, tiny and random, through a tuning.

    python benchmarks/coverage.py [--class NAME …] [--again] [--limit N]

Each class is built (coverage_models.py), tuned to 0.9 of its parameters, loaded again, and its ONNX
graphs, prefill and for decoders one decode step, are compared with transformers' plain call. What
is refused is refused in a sentence; where that advises the torch backend, the tuning is repeated
there. Every class has a process of its own with limits of memory and time. Rows are kept in
benchmarks/results/coverage.jsonl: a further run does only what is missing, with `--again` also
what did not pass. Writes docs/coverage.md; exit code 1 where a row ends in a traceback.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coverage_models import Entry

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks" / "results" / "coverage.jsonl"
PAGE = ROOT / "docs" / "coverage.md"
MEMORY_BYTES = 12 << 30  # of address space, which torch reserves more of than it uses
LIMIT_S = 400
PASSES, NO_GRAPH, REFUSED, TRACEBACK = "passes", "no graph", "refused", "traceback"
NOT_RUN = "not run"
Row = dict[str, Any]
_FORK = multiprocessing.get_context("fork")


def main() -> int:
    """Run what is missing, one process at a time, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--class", dest="classes", action="append", default=[])
    parser.add_argument("--again", action="store_true", help="also rows that did not pass")
    parser.add_argument("--limit", type=int, help="at most so many rows")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    from coverage_models import model_classes
    from coverage_row import warm_up

    warm_up()  # what every row needs is imported once, before it is forked

    rows = read_rows(options.rows)
    wanted = list(model_classes())
    todo = [entry for entry in wanted if _is_due(entry.name, rows, options=options)]
    random.Random(0).shuffle(todo)  # a run that is cut short has seen something of every kind
    for number, entry in enumerate(todo[: options.limit]):
        rows[entry.name] = run_row(entry)
        print(f"{number + 1}/{len(todo)}", line(rows[entry.name]), flush=True)
        options.rows.write_text(
            "".join(f"{json.dumps(rows[name])}\n" for name, *_ in wanted if name in rows)
        )
        options.page.write_text(page(wanted, rows))
    options.page.write_text(page(wanted, rows))
    return int(any(row["outcome"] == TRACEBACK for row in rows.values()))


def read_rows(path: Path) -> dict[str, Row]:
    """The rows that were written, by class."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {row["class"]: row for row in map(json.loads, lines)}


def _is_due(name: str, rows: dict[str, Row], *, options: argparse.Namespace) -> bool:
    if options.classes:
        return name in options.classes
    return name not in rows or (options.again and rows[name]["outcome"] != PASSES)


def run_row(entry: Entry) -> Row:
    """One class in a process of its own; what kills it or takes too long is a traceback too."""
    started_s = time.monotonic()
    row = _facts(entry)
    with tempfile.TemporaryDirectory() as scratch:
        child = _FORK.Process(target=_child, args=(Path(scratch), entry))
        child.start()
        child.join(LIMIT_S)
        if child.is_alive():
            os.killpg(child.pid or 0, signal.SIGKILL)
            child.join()
        answer, log = Path(scratch, "row.json"), Path(scratch, "log").read_text(errors="replace")
        if answer.is_file():
            row |= json.loads(answer.read_text())
        else:
            last = f"stopped after {LIMIT_S} s" if child.exitcode == -signal.SIGKILL else ""
            last = last or (log.strip().splitlines() or [f"exit code {child.exitcode}"])[-1]
            row |= {"outcome": TRACEBACK, "note": last[:300], "trace": log[-3000:]}
    return {**row, "seconds": round(time.monotonic() - started_s)}


def _facts(entry: Entry) -> Row:
    return {"class": entry.name, "type": entry.model_type, "kind": entry.kind}


def _child(scratch: Path, entry: Entry) -> None:
    """What the row's process does, in its folder and below its limits."""
    from coverage_row import work

    os.setsid()
    os.chdir(scratch)
    log = os.open("log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {
        "AUTOTUNE_DB": f"{scratch}/latency.sqlite",
        "AUTOTUNE_LOCKS": f"{scratch}/locks",
        "TMPDIR": str(scratch),
    }
    tempfile.tempdir = str(scratch)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        Path("row.json").write_text(json.dumps(work(entry)))
    except BaseException:
        with Path("log").open("a") as stream:
            traceback.print_exc(file=stream)
        raise


def line(row: Row) -> str:
    """One row on the terminal."""
    figures = [f"{phase} {row[phase]:.0e}" for phase in ("prefill", "decode") if phase in row]
    text = f"{row['class']}: {row['outcome']}, {row['seconds']} s {' '.join(figures)}"
    return f"{text} {row.get('note', '')}"[:400]


def page(wanted: Sequence[Entry], known: Mapping[str, Row]) -> str:
    """docs/coverage.md: a row for every class that is `wanted`."""
    import transformers

    rows = [known.get(entry.name, {**_facts(entry), "outcome": NOT_RUN}) for entry in wanted]
    counts = Counter(row["outcome"] for row in rows)
    body = [
        f"| `{row['class']}` | {row['kind']} | {row['outcome']} | {_error(row, 'prefill')} | "
        f"{_error(row, 'decode')} | {row.get('note', '').replace('|', '/')} |"
        for row in rows
    ]
    return _HEAD.format(
        version=transformers.__version__,
        total=len(rows),
        **{key: counts[value] for key, value in _COUNTED.items()},
    ) + "\n".join([*body, ""])


def _error(row: Row, phase: str) -> str:
    return f"{row[phase]:.0e}" if phase in row else ""


_COUNTED = {
    "not_run": NOT_RUN,
    "passes": PASSES,
    "no_graph": NO_GRAPH,
    "refused": REFUSED,
    "tracebacks": TRACEBACK,
}
_HEAD = """# Coverage

Every model class of transformers {version} that has a body of text, images, or both in two towers,
built small with random weights and taken through a tuning to 0.9 of its parameters, the
checkpoint, its reload, and the comparison of the ONNX graphs with transformers' plain call. Each
number is the largest difference over the largest value, at batches and lengths that were not
traced and with padding on both sides. `benchmarks/coverage.py` writes this page.

- {passes} of {total} pass: checkpoint and graphs, for decoders also of the decode step unless the
  remark states otherwise.
- {no_graph} have no right ONNX graph, which is reported before anything is measured; with
  `--backend torch-eager` they are tuned.
- {refused} are refused, for the reason in the remark.
- {tracebacks} end in a traceback.
- {not_run} have not been run with this version yet.

| class | kind | outcome | prefill | decode | remark |
|---|---|---|---|---|---|
"""

if __name__ == "__main__":
    sys.exit(main())
