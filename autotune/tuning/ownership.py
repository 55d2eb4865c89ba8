"""What in an output folder is a tuning's own, and may therefore be replaced; nothing else is.

A tuning replaces the names in `REPLACED`. One of them is its own where `result.json` or the list of
what was handed out (`.cache/handed-out.json`, written before anything is) names it; `model/` where
it bears the stamp `autotune.json` as well. Nothing here needs a model or a heavy library, so that a
refusal comes at once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from autotune.compress.companions import is_checkpoint_file
from autotune.compress.locate import EMBEDDED_MODEL, is_local
from autotune.core.errors import RunFolderError, option_name, refused_write
from autotune.core.files import file_sha256, files_of
from autotune.core.runfolder import ADVICE, CACHE, RunFolder
from autotune.core.types import canonical_json
from autotune.results.result import RESULT
from autotune.tuning.request import TuneRequest

MODEL, REPORT, STAMP = "model", "report.html", "autotune.json"
GRAPH_FILES = ("model.onnx", "model.onnx.data", "model_decode.onnx", "model_decode.onnx.data")
REPLACED = (MODEL, *GRAPH_FILES, REPORT, RESULT)
_HANDED_OUT = "handed-out.json"
_ELSEWHERE = f"move it away, or set {option_name('output')} to another folder"


def check_output(request: TuneRequest) -> None:
    """Refuse an output folder that cannot be written, or in which something could get lost.

    Raises:
        RunFolderError: it cannot be written, or another process uses it; something there is not of
            an earlier tuning and would be replaced; or the model, the calibration or evaluation
            data or the database of the request lie in what would be replaced, or hold it.
    """
    folder, database = request.output, request.machine.database
    try:
        folder.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long, a file where a folder should be
        raise refused_write(folder, error, advice=ADVICE, kind=RunFolderError) from error
    if isinstance(database, Path):
        require_apart(folder, database, option="machine.database")
    if request.model not in (None, EMBEDDED_MODEL) and is_local(request.model):
        require_apart(folder, Path(str(request.model)), option="model")
    for name in ("calibration", "evaluation"):
        data = getattr(request.calibration, name)
        if data is not None:
            require_apart(folder, Path(data), option=f"calibration.{name}")
    require_replaceable(folder)
    with RunFolder(folder):  # proves that it can be written, and that nobody else does
        pass


def require_apart(folder: Path, source: Path, *, option: str) -> None:
    """Refuse an input that is, is in, or holds what a tuning in `folder` replaces.

    `option` is the path of the option that names the input.

    Raises:
        RunFolderError: it does.
    """
    source = source.expanduser()
    # A folder of links has its content elsewhere.
    content = [source, *(source.iterdir() if source.is_dir() else ())]
    for name in (*REPLACED, CACHE):
        replaced = folder / name
        if any(_is_in(each, replaced) for each in content) or _is_in(replaced, source):
            raise RunFolderError(
                f"{option_name(option)} {source} is, holds or lies in {replaced}, which a tuning "
                f"replaces; set {option_name('output')} to another folder"
            )


def _is_in(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or lies in it, whatever links lead there."""
    path, folder = path.resolve(), folder.resolve()
    if path == folder or folder in path.parents:
        return True
    return folder.exists() and any(
        each.exists() and each.samefile(folder) for each in (path, *path.parents)
    )


def require_replaceable(folder: Path) -> None:
    """Refuse a folder in which something that a tuning would replace is not of an earlier tuning.

    Raises:
        RunFolderError: it names what is not.
    """
    own = own_names(folder)
    for name in REPLACED:
        path = folder / name
        if path.is_symlink():
            raise RunFolderError(
                f"{path} is a symbolic link, which a tuning would replace; {_ELSEWHERE}"
            )
        if name == MODEL and path.is_dir():
            _require_own_model(path, {each for each in own if each.startswith(f"{MODEL}/")})
        elif path.exists() and (path.is_dir() or name not in own):
            raise _foreign(path)


def _require_own_model(path: Path, own: Collection[str]) -> None:
    found = {f"{MODEL}/{file.relative_to(path).as_posix()}": file for file in files_of(path)}
    stamp = f"{MODEL}/{STAMP}"
    if found and not (stamp in found and (stamp in own or _stamp_key(path) is not None)):
        raise _foreign(path)
    for name, file in sorted(found.items()):
        # A checkpoint of before there was a list is known by what its files are called.
        expected = name in own if own else is_checkpoint_file(name.removeprefix(f"{MODEL}/"))
        if file.is_symlink() or not expected:
            raise _foreign(file)


def _foreign(path: Path) -> RunFolderError:
    return RunFolderError(
        f"{path} is not of an earlier tuning in this folder, and would be replaced; {_ELSEWHERE}"
    )


def own_names(folder: Path) -> set[str]:
    """What tunings have written in `folder`, relative to it: files, also those of `model/`."""
    listed = _json_object(folder / CACHE / _HANDED_OUT).get("files")
    own = {str(name) for name in listed} if isinstance(listed, list) else set()
    result = _json_object(folder / RESULT)
    if isinstance(result.get("schema_version"), int) and "sites" in result:
        own |= {RESULT, REPORT, *earlier_files(folder)}
    elif not own and _stamp_key(folder / MODEL) is not None:
        # Written before there was a list, and its result is damaged or was not written any more.
        own = {RESULT, REPORT, *GRAPH_FILES}
    return own


def earlier_files(folder: Path) -> Mapping[str, str]:
    """The files that `result.json` lists, with their sha256; of any version, empty without one."""
    files = _json_object(folder / RESULT).get("files")
    if not isinstance(files, dict):
        return {}
    return {name: value for name, value in files.items() if isinstance(value, str)}


def claim(folder: RunFolder, names: Iterable[str], *, only: bool = False) -> None:
    """Note names in the run folder as written by a tuning, before they are; `only` drops others."""
    listed = _json_object(folder.cache / _HANDED_OUT).get("files")
    before = [str(name) for name in listed] if isinstance(listed, list) else None
    files = sorted({*names} if only else {*names, *(before or ())})
    if files != before:
        folder.write_text(folder.cache / _HANDED_OUT, canonical_json({"files": files}))


def is_unchanged(folder: Path, key: str) -> bool:
    """Whether `model/` is the checkpoint of `key`, file by file as `result.json` says.

    The model card is written again each time, so it does not count.
    """
    model = folder / MODEL
    if _stamp_key(model) != key:
        return False
    card = f"{MODEL}/README.md"
    expected = {n: v for n, v in earlier_files(folder).items() if n.startswith(f"{MODEL}/")}
    found = {file.relative_to(folder).as_posix(): file for file in files_of(model)}
    return {*expected, card} == {*found, card} and all(
        file_sha256(found[name]) == sha256 for name, sha256 in expected.items() if name != card
    )


def _stamp_key(model: Path) -> str | None:
    """The key in the stamp of a checkpoint that a tuning wrote."""
    key = _json_object(model / STAMP).get("key")
    return key if isinstance(key, str) else None


def _json_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or something else."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
