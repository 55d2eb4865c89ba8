"""A limited resource, and the limited share of it that one caller may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from autotune.service.errors import QuotaError


class Shares:
    """Counts what each caller holds of a resource. Used by one event loop, so it needs no lock.

    `total` limits what all callers hold together, `each` what one of them holds; `what` names the
    resource in the plural.
    """

    def __init__(self, *, what: str, total: int, each: int) -> None:
        self.what, self.total, self.each = what, total, each
        self.held: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """What all callers hold together."""
        return self.held.total()

    def take(self, owner: str, amount: int = 1) -> None:
        """Give `owner` a further part.

        Raises:
            QuotaError: the owner, or all callers together, would hold too much.
        """
        if self.held[owner] + amount > self.each:
            raise QuotaError(
                f"limit reached: one user may have {self.each} {self.what} at a time; wait for "
                "some to end"
            )
        if self.taken + amount > self.total:
            raise QuotaError(
                f"limit reached: the server has {self.total} {self.what} at a time, and all are "
                "in use; try again later"
            )
        self.held[owner] += amount

    def give_back(self, owner: str, amount: int = 1) -> None:
        """Take a part back from `owner`."""
        self.held[owner] -= amount
        if self.held[owner] <= 0:
            del self.held[owner]

    @contextmanager
    def hold(self, owner: str) -> Iterator[None]:
        """Hold one part as long as the context is open.

        Raises:
            QuotaError: as `take`.
        """
        self.take(owner)
        try:
            yield
        finally:
            self.give_back(owner)
