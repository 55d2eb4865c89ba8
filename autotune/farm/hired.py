"""Objects that live on the workers of a farm."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from autotune.farm.answers import cut

if TYPE_CHECKING:
    from autotune.farm.ray_executor import RayExecutor

_LOOK_S = 5.0
_PLACE_S = 60.0
_ASK_S = 1800.0
_LOG = logging.getLogger(__name__)


class Hired:
    """A handle on an object on a worker; use it from one thread at a time."""

    def __init__(self, executor: RayExecutor, actor: Any) -> None:
        self._executor, self._actor = executor, actor
        self._started = False

    def ask(self, text: str) -> str | None:
        """The object's answer; None if no worker had a free core, or its worker died or hangs."""
        if not self._started:
            ready = self._actor.__ray_ready__.remote()
            self._started = self._wait(ready, _PLACE_S) is not None
        if not self._started:
            return None
        answer = self._wait(self._actor.ask.remote(text), _ASK_S)
        return None if answer is None else str(answer)

    def close(self) -> None:
        """Close the object, end its process and release its worker."""
        if self._executor.coordinator_gone:
            return
        ray = self._executor.ray
        if self._started:
            with suppress(ray.exceptions.RayError):
                ray.get(self._actor.close.remote(), timeout=_LOOK_S)
        ray.kill(self._actor)

    def _wait(self, reference: Any, longest_s: float) -> Any:
        """The result of a remote call; None if the worker died or `longest_s` seconds passed.

        Raises:
            FarmUnreachableError: the coordinator stopped responding.
        """
        ray, waited = self._executor.ray, 0.0
        while waited < longest_s:
            try:
                return ray.get(reference, timeout=_LOOK_S)
            except ray.exceptions.GetTimeoutError:
                waited += _LOOK_S
                self._executor.check_coordinator()
            except ray.exceptions.RayError as error:
                _LOG.warning("a worker died before it judged its plans: %s", cut(error))
                return None
        _LOG.warning("no worker had a free core, or an answer, within %.0f s", waited)
        return None
