"""What a tuning hands out: the checkpoint, ONNX graphs, the report and, last, result.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.core.files import copy_whole, file_sha256, files_of, remove
from autotune.core.types import digest
from autotune.results.result import RESULT, TuneResult, result_text
from autotune.tuning.other_shapes import other_shapes
from autotune.tuning.ownership import (
    GRAPH_FILES,
    MODEL,
    REPORT,
    STAMP,
    claim,
    is_unchanged,
    own_names,
    require_replaceable,
)
from autotune.tuning.record import tune_record
from autotune.tuning.rounds import Round

if TYPE_CHECKING:
    from autotune.tuning.session import Tuning

# Counts up when other graphs are put into a checkpoint.
_CHECKPOINT_GRAPHS = 1


def hand_out(tuning: Tuning, final: Round, *, rounds: Sequence[Round]) -> TuneResult:
    """Write everything that belongs to the final round; result.json comes last.

    Raises:
        StorageError: the disk is full.
        RunFolderError: something that would be replaced was put there meanwhile.
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
    record = replace(
        tune_record(tuning, final, rounds=rounds, quality=tuning.judge(final)),
        other_shapes=other_shapes(tuning, final),
    )
    sources = _graph_sources(graphs.values())
    require_replaceable(folder.path)
    with tuning.workspace.stage("write the result") as advance:
        advance(0, 4)
        _write_checkpoint(tuning, final, whole=whole)
        folder.write_text(
            folder.path / MODEL / "README.md",
            model_card(record, dense=tuning.model.loaded.folder, checkpoint=folder.path / MODEL),
        )
        advance(1, 4)
        claim(folder, [*sources, REPORT, RESULT])
        _write_graphs(folder.path, sources)
        advance(2, 4)
        folder.write(folder.path / REPORT, lambda path: write_report(record, path))
        advance(3, 4)
        record = replace(record, files=_hashes(folder.path, sources))
        folder.write_text(folder.path / RESULT, result_text(record))
        claim(folder, [*record.files, REPORT, RESULT], only=True)
        advance(4, 4)
    return TuneResult(folder=folder.path, record=record)


def _write_checkpoint(tuning: Tuning, final: Round, *, whole: Path) -> None:
    """Write `model/` unless it is of this plan already, as the earlier result lists it.

    `whole` is the build of whole sequences.
    """
    from autotune.compress.checkpoint import save_checkpoint
    from autotune.compress.companions import companion_hashes, copy_companions
    from autotune.export.backend_graphs import add_backend_graphs

    folder, loaded = tuning.workspace.folder, tuning.model.loaded
    # Templates, tokenizer and generation settings are handed out too, and no part of any build.
    key = digest(
        {
            "build": tuning.builder.key(whole),
            "companions": companion_hashes(loaded.folder),
            "graphs": _CHECKPOINT_GRAPHS,
        }
    )
    if is_unchanged(folder.path, key):
        return

    def save(path: Path) -> None:
        with tuning.compression.applied(final.allocation.plan):
            save_checkpoint(
                loaded.model,
                loaded.tokenizer,
                folder=path,
                storage=tuning.compression.storage,
                dtype=tuning.planner.network.weight_dtype,
            )
        copy_companions(loaded.folder, path)
        if whole.suffix == ".onnx":
            add_backend_graphs(whole, path, note=tuning.workspace.note)
        (path / STAMP).write_text(json.dumps({"key": key}))
        files = [file.relative_to(path).as_posix() for file in files_of(path)]
        claim(folder, [f"{MODEL}/{name}" for name in (*files, "README.md")])

    folder.write(folder.path / MODEL, save)


def _graph_sources(graphs: Iterable[Path]) -> dict[str, Path]:
    """The files of ONNX graphs by name, external data first: no graph is there without its data."""
    found: dict[str, Path] = {}
    for graph in graphs:
        if graph.suffix == ".onnx":
            data = graph.with_name(f"{graph.name}.data")
            found |= {file.name: file for file in (data, graph) if file.is_file()}
    return found


def _write_graphs(folder: Path, sources: Mapping[str, Path]) -> None:
    """Copy the graphs; those of an earlier result that this one does not have are removed."""
    for name in own_names(folder).intersection(GRAPH_FILES).difference(sources):
        remove(folder / name)
    for name, source in sources.items():
        copy_whole(source, folder / name)


def _hashes(folder: Path, graphs: Iterable[str]) -> dict[str, str]:
    """sha256 of everything that somebody loads, for `verify`."""
    files = [*(folder / name for name in graphs), *files_of(folder / MODEL)]
    return {file.relative_to(folder).as_posix(): file_sha256(file) for file in sorted(files)}
