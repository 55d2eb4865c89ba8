"""Regular expressions that users give for names of modules, matched within a time limit.

A pattern such as `(([a-z.])+)+!` takes longer than anybody waits on one name of thirty characters,
and `re` lets no other thread run meanwhile. The engine used here gives up after a while.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import regex

from autotune.core.errors import UsageError

_LIMIT_S = 0.5
_EXAMPLE = "model.decoder.layers.31.self_attn.q_proj"


@dataclass(frozen=True)
class NamePattern:
    """A regular expression that is searched in names; written as for `re`.

    Raises:
        UsageError: it is no regular expression, or takes too long on a name of usual length.
    """

    text: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.text)
            _ = self._compiled
        except (re.error, regex.error, OverflowError, RecursionError) as error:
            raise UsageError(f"{self.text!r} is not a regular expression: {error}") from None
        self.search(_EXAMPLE)

    @cached_property
    def _compiled(self) -> Any:
        return regex.compile(self.text, regex.VERSION0)

    def search(self, name: str) -> bool:
        """Whether the pattern is found in `name`.

        Raises:
            UsageError: that takes too long.
        """
        try:
            return self._compiled.search(name, timeout=_LIMIT_S) is not None
        except TimeoutError:
            raise UsageError(
                f"regular expression {self.text[:100]!r} takes longer than {_LIMIT_S:g} s on the "
                f"name {name[:100]!r}; use fewer repetitions, such as .* once"
            ) from None
