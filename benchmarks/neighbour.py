"""A neighbour on the machine: two processes that each keep a core busy in bursts of 0.2 to 3 s.

    python benchmarks/neighbour.py SEED

Together they take 0 to 2 cores. The same seed gives the same bursts. It runs until it is ended, and
its children end with it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time

PROCESSES = 2
_SPELL_S = (0.2, 3.0)


def burn(seed: int) -> None:
    """Take a core and leave it in turn, for ever."""
    draw = random.Random(seed)
    while True:
        until = time.monotonic() + draw.uniform(*_SPELL_S)
        while time.monotonic() < until:
            pass
        time.sleep(draw.uniform(*_SPELL_S))


def main() -> None:
    """Start the processes and wait to be ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seed", type=int, nargs="?", default=0)
    seed = parser.parse_args().seed
    for number in range(PROCESSES):
        arguments = (PROCESSES * seed + number,)
        multiprocessing.Process(target=burn, args=arguments, daemon=True).start()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
