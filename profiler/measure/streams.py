"""Several networks that run at the same time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from autotune.profiler.measure.timing import Runner


def at_the_same_time(networks: Sequence[Runner], processors: Sequence[int] = ()) -> Runner:
    """A callable that runs each network once, all at the same time, and returns when all are done.

    Each has a thread of its own, on a processor of its own where there are as many: threads begin
    on those of the one that starts them, which a backend may have pinned.
    """
    numbers: SimpleQueue[int] = SimpleQueue()
    for number in range(len(networks)):
        numbers.put(number)

    def settle() -> None:
        if len(processors) >= len(networks):
            share = len(processors) // len(networks)
            first = numbers.get() * share
            os.sched_setaffinity(0, processors[first : first + share])
        elif processors:
            os.sched_setaffinity(0, processors)

    pool = ThreadPoolExecutor(len(networks), initializer=settle)

    def run() -> None:
        for done in [pool.submit(network) for network in networks]:
            done.result()

    return run
