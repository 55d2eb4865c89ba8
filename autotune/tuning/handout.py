"""What a tuning hands out: the checkpoint, ONNX graphs, the report and, last, result.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.core.files import copy_whole, file_sha256
from autotune.results.result import TuneResult, result_text
from autotune.tuning.record import tune_record
from autotune.tuning.rounds import Round

if TYPE_CHECKING:
    from autotune.tuning.session import Tuning


def hand_out(tuning: Tuning, final: Round, *, rounds: Sequence[Round]) -> TuneResult:
    """Write everything that belongs to the final round; result.json comes last.

    Raises:
        StorageError: the disk is full.
    """
    from autotune.report.card import model_card
    from autotune.report.html import write_report

    folder = tuning.workspace.folder
    plan = final.allocation.plan
    # Whatever the budget covers, the graph of whole sequences belongs to the result.
    whole = final.builds.get("prefill") or tuning.builder.compressed(
        "prefill", tuning.compression, plan=plan
    )
    graphs = {**final.builds, "prefill": whole}
    record = tune_record(tuning, final, rounds=rounds, quality=tuning.judge(final))
    with tuning.workspace.stage("write the result") as advance:
        advance(0, 4)
        _write_checkpoint(tuning, final, key=tuning.builder.key(whole))
        folder.write_text(folder.path / "model" / "README.md", model_card(record))
        advance(1, 4)
        for graph in graphs.values():
            if graph.suffix == ".onnx":
                _copy_graph(graph, folder.path)
        advance(2, 4)
        folder.write(folder.path / "report.html", lambda path: write_report(record, path))
        advance(3, 4)
        record = replace(record, files=_hashes(folder.path))
        folder.write_text(folder.path / "result.json", result_text(record))
        advance(4, 4)
    return TuneResult(folder=folder.path, record=record)


def _write_checkpoint(tuning: Tuning, final: Round, *, key: str) -> None:
    """Write `model/` unless it is of this plan already."""
    from autotune.compress.checkpoint import save_checkpoint
    from autotune.compress.companions import copy_companions

    folder, loaded = tuning.workspace.folder, tuning.model.loaded
    stamp = folder.path / "model" / "autotune.json"
    if stamp.is_file() and json.loads(stamp.read_text()).get("key") == key:
        return

    def save(path: Path) -> None:
        with tuning.compression.applied(final.allocation.plan):
            save_checkpoint(
                loaded.model,
                loaded.tokenizer,
                folder=path,
                storage=tuning.compression.storage,
                dtype=tuning.machine.dtype,
            )
        copy_companions(loaded.folder, path)
        (path / "autotune.json").write_text(json.dumps({"key": key}))

    folder.write(folder.path / "model", save)


def _hashes(path: Path) -> dict[str, str]:
    """sha256 of everything that somebody loads, for `verify`."""
    files = [*path.glob("model*.onnx*"), *(path / "model").rglob("*")]
    return {str(f.relative_to(path)): file_sha256(f) for f in sorted(files) if f.is_file()}


def _copy_graph(graph: Path, folder: Path) -> None:
    """The graph and its external data, the data first: a graph is never there without it."""
    data = graph.with_name(f"{graph.name}.data")
    for source in (data, graph):
        if source.is_file():
            copy_whole(source, folder / source.name)
