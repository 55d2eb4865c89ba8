"""Regular expressions of module names, which anybody may submit: bounded in size and time.

Python's own `re` keeps the interpreter for hours at a pattern such as `^(([a-z0-9_.])+)+!$`, and
nothing can interrupt it. The module `regex`, which transformers needs as well, takes the same
patterns and a time limit; of its own constructs, such as recursion, none is allowed.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from typing import Any

from autotune.core.errors import UsageError
from autotune.core.text import one_line

MOST_CHARACTERS = 500
MOST_REPEATS = 1000
_ALL_PATTERNS_S = 0.5
_ALL_NAMES_S = 2.0
# What names look like; a pattern that is slow at these is refused before a model is loaded.
_NAMES = ("model.layers.0.self_attn.q_proj", "encoder.layer.11.attention.output.dense", "h.0_A-")
_COUNT = re.compile(r"\{(\d{0,9}),?(\d{0,9})\}")


class SearchTime:
    """The time that several searches may take together; an ordinary one needs microseconds."""

    def __init__(self, seconds: float = _ALL_PATTERNS_S) -> None:
        self._left_s = seconds

    def search(self, pattern: Any, name: str, *, text: str) -> bool:
        """Whether the compiled `pattern`, written as `text`, is found in `name`.

        Where the time is used up an ordinary pattern is still searched for.

        Raises:
            UsageError: it takes longer than what is left of the time.
        """
        started_s = time.monotonic()
        try:
            limit_s = max(self._left_s, 1e-3)
            return pattern.search(name, timeout=limit_s, concurrent=True) is not None
        except TimeoutError:
            raise UsageError(
                f"{one_line(text)!r} takes too long to search in {one_line(name)!r}; write it "
                "without repetitions inside of repetitions"
            ) from None
        finally:
            self._left_s -= time.monotonic() - started_s


class NamePatterns:
    """Compiled regular expressions, searched in names.

    All searches together may take two seconds, of which an ordinary pattern needs microseconds.

    Raises:
        UsageError: a pattern that is no regular expression, is too long or takes too long.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [(text, _compiled(text)) for text in patterns]
        self._time = SearchTime(_ALL_NAMES_S)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, name: str) -> bool:
        """Whether one of them is found in `name`.

        Raises:
            UsageError: the time is used up.
        """
        return self.first(name) is not None

    def first(self, name: str) -> int | None:
        """The index of the first pattern that is found in `name`; None if none is."""
        found = (i for i in range(len(self._patterns)) if self._found(i, name))
        return next(found, None)

    def _found(self, index: int, name: str) -> bool:
        text, pattern = self._patterns[index]
        return self._time.search(pattern, name, text=text)


def check_pattern(text: str, limit: SearchTime) -> None:
    """Refuse what is no regular expression, or one that takes too long for a name.

    `limit` is that of all patterns which are given together.

    Raises:
        UsageError: says which, and what is allowed.
    """
    pattern = _compiled(text)
    for name in _NAMES:
        limit.search(pattern, name, text=text)


def _compiled(text: str) -> Any:
    import regex

    if len(text) > MOST_CHARACTERS:
        raise UsageError(
            f"a regular expression of {len(text)} characters is longer than the {MOST_CHARACTERS} "
            "allowed; use several"
        )
    counts = [max(int(number or 1) for number in found) for found in _COUNT.findall(text)]
    if math.prod(max(count, 1) for count in counts) > MOST_REPEATS:
        raise UsageError(
            f"{one_line(text)!r} repeats more than {MOST_REPEATS} times by its counts in braces; "
            "use + or *"
        )
    try:
        re.compile(text)  # the other module has constructs of its own, such as recursion
        return regex.compile(text)
    except (re.error, regex.error, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{one_line(text)!r} is not a regular expression: {error}") from error
