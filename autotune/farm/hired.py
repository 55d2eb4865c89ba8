"""Objects that live on the workers of a farm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.farm.ray_executor import RayExecutor

_PLACE_S = 60.0


class Hired:
    """A handle on an object on a worker; use it from one thread at a time."""

    def __init__(self, executor: RayExecutor, actor: Any) -> None:
        self._executor, self._actor = executor, actor
        self._started = False

    def ask(self, text: str) -> str | None:
        """The object's answer; None if no worker had a free core, or its worker died."""
        if not self._started:
            ready = self._actor.__ray_ready__.remote()
            self._started = self._executor.wait(ready, _PLACE_S) is not None
        if not self._started:
            return None
        answer = self._executor.wait(self._actor.ask.remote(text))
        return None if answer is None else str(answer)

    def close(self) -> None:
        """Close the object and release its worker."""
        self._executor.dismiss(self._actor, self._started)
