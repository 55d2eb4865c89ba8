"""Where one tuning works: its run folder, and whoever follows its progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.core.progress import Advance, Reporter
from autotune.core.runfolder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A run folder with its cache, and a reporter.

    Everything expensive is kept in the cache under a key of its full inputs, so a tuning that was
    interrupted continues, and one with other options reuses what they do not affect.
    """

    folder: RunFolder
    reporter: Reporter

    @property
    def cache(self) -> Path:
        """The folder that holds the cached results."""
        return self.folder.cache

    def stage(self, title: str) -> AbstractContextManager[Advance]:
        """Report a stage of the work; yields what reports progress as (done, total)."""
        return self.reporter.stage(title)

    def note(self, text: str) -> None:
        """Report one line to whoever follows the tuning."""
        self.reporter.note(text)

    def file(self, name: str, key: Any, *, suffix: str, build: Callable[[Path], None]) -> Path:
        """The cached file or folder made from `key`; `build` writes it if there is none yet."""
        return self.folder.stage(name, key, suffix=suffix, build=build)[0]

    def value(
        self,
        name: str,
        key: Any,
        *,
        compute: Callable[[], Any],
        reuse: Callable[[Any], bool] = lambda value: True,
    ) -> Any:
        """The cached JSON value computed from `key`; one that `reuse` refuses is computed again."""
        return self.folder.json_stage(name, key, compute=compute, reuse=reuse)
