"""Python's search for cyclic garbage, and when to do without."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Look for no cyclic garbage meanwhile, in any thread.

    For work that makes tens of thousands of records that stay: a tenth to a fifth of its time goes
    into looking through them again and again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
