"""Write the dense equivalent of a factorized checkpoint."""

from __future__ import annotations

from pathlib import Path

from autotune.core.errors import UsageError, option_name, storage_errors
from autotune.core.files import partial_path, require_writable, write_whole

_ADVICE = f"set {option_name('output')} to a writable folder"


def merge(folder: str | Path, output: str | Path | None = None) -> Path:
    """Multiply the pairs of a checkpoint (or of a run folder's `model`) out into `output`.

    The dtype stays. Default: `dense` beside the weights' folder, or in the run folder.

    Raises:
        UsageError: no factorized checkpoint there, or `output` exists already.
        StorageError: `output` cannot be written.
        ModelError: it cannot be loaded.
    """
    from autotune.compress.locate import checkpoint_folder

    found = checkpoint_folder(Path(folder))
    target = Path(output) if output else found.parent / "dense"
    _require_new(target)
    from autotune.compress.checkpoint import compressed_layers
    from autotune.compress.companions import copy_companions
    from autotune.compress.loading import load_checkpoint
    from autotune.compress.merge import merge_low_rank

    loaded = load_checkpoint(found)
    if not compressed_layers(loaded.model):
        raise UsageError(f"{loaded.folder} has no low-rank layers: it is dense already")
    merge_low_rank(loaded.model)

    def build(path: Path) -> None:
        loaded.model.save_pretrained(path)  # type: ignore[operator]
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(path)
        copy_companions(loaded.folder, path)

    return write_whole(target, build, advice=_ADVICE, new=True)


def _require_new(target: Path) -> None:
    """Refuse a folder that is there or cannot be made, before anything is loaded.

    Raises:
        UsageError: something is there.
        StorageError: it cannot be written.
    """
    with storage_errors(target, _ADVICE):
        if target.exists() or target.is_symlink():
            raise UsageError(
                f"{target} exists already; set {option_name('output')} to another folder"
            )
    require_writable(partial_path(target), shown=target, advice=_ADVICE)
