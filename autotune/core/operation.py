"""One kernel of a traced pass, found by compress/operations.py, priced by predictor/network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One kernel of a pass: what it reads and writes, and its shape.

    `kind`: "layer" (a site), "memory" (elementwise, norms, gathers, copies), "product" (`batch`
    products of queries × head_dim by head_dim × keys), or "attention" (`batch` × `heads` sequences
    of `queries` against `keys`, keys and values in `kv_heads` heads). `reads` and `writes` are
    pairs (number of the tensor, bytes moved).
    """

    kind: str
    reads: tuple[tuple[int, int], ...] = ()
    writes: tuple[tuple[int, int], ...] = ()
    batch: int = 1
    heads: int = 1
    kv_heads: int = 1
    queries: int = 0
    keys: int = 0
    head_dim: int = 0
    causal: bool = False

    @property
    def moved_bytes(self) -> int:
        """Bytes that the operation reads and writes."""
        return sum(size for _, size in (*self.reads, *self.writes))


def fuse(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """The same pass with neighbouring "memory" operations as one kernel each.

    A compiler or a serving stack does so: such a kernel reads what the run did not make itself, and
    writes what is read after it.
    """
    last_read = {
        number: i for i, operation in enumerate(operations) for number, _ in operation.reads
    }
    found: list[Operation] = []
    run: list[Operation] = []

    def close(end: int) -> None:
        if not run:
            return
        made: dict[int, int] = {}
        reads: dict[int, int] = {}
        for operation in run:
            for number, size in operation.reads:
                if number not in made:
                    reads[number] = max(reads.get(number, 0), size)
            made |= _largest(made, operation.writes)
        writes = {n: c for n, c in made.items() if last_read.get(n, end) >= end}
        found.append(
            Operation(kind="memory", reads=tuple(reads.items()), writes=tuple(writes.items()))
        )
        run.clear()

    for i, operation in enumerate(operations):
        if operation.kind == "memory":
            run.append(operation)
        else:
            close(i)
            found.append(operation)
    close(len(operations))
    return tuple(found)


def _largest(known: Mapping[int, int], more: Iterable[tuple[int, int]]) -> dict[int, int]:
    return {number: max(known.get(number, 0), size) for number, size in more}
