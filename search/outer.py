"""Optuna over a few outer knobs, the exact solver inside every trial.

A trial scales the error table by group and depth, solves exactly and asks for the true loss of
that plan; every trial is feasible and aligned by construction. Ranks themselves are no Optuna
parameters: over 32 of them no sampler came near the exact plan (docs/methods/default.md).
"""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from sqlalchemy.pool import NullPool

from autotune.core.files import remove
from autotune.core.layers import Site
from autotune.core.progress import Advance, no_progress
from autotune.core.types import digest
from autotune.search.problem import Allocation

Knobs = Mapping[str, float]
_LOG = logging.getLogger(__name__)
_CHECKSUM = "sha256"
_SPAN = math.log(4.0)
_HOPEFUL = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)
# A trial whose worker was not heard of for so long is tried again.
_HEARTBEAT_S, _GRACE_S = 2, 10


def knob_names(sites: Sequence[Site]) -> list[str]:
    """One multiplier per group but the first, and slope and bend of the errors over depth."""
    groups = sorted({site.group for site in sites})
    names = [f"group:{group}" for group in groups[1:]]
    if len({site.block for site in sites if site.block is not None}) > 2:
        names += ["depth:slope", "depth:bend"]
    return names


def error_multiplier(site: Site, knobs: Knobs, *, blocks: int) -> float:
    """exp(group + slope·d + bend·(2d² − 1)) with d from −1 (first block) to 1 (last)."""
    exponent = knobs.get(f"group:{site.group}", 0.0)
    if site.block is not None and blocks > 1:
        depth = 2.0 * site.block / (blocks - 1) - 1.0
        exponent += knobs.get("depth:slope", 0.0) * depth
        exponent += knobs.get("depth:bend", 0.0) * (2 * depth**2 - 1)
    return math.exp(exponent)


def search_knobs(
    sites: Sequence[Site],
    solve: Callable[[Knobs], Allocation],
    *,
    true_loss: Callable[[Allocation], float],
    surely_better: Callable[[Allocation, Allocation], bool],
    trials: int,
    storage: Path | str,
    name: str,
    seed: int = 0,
    workers: int = 1,
    progress: Advance = no_progress,
    note: Callable[[str], None] = lambda text: None,
) -> Knobs:
    """The knobs with the least true loss; the unscaled table is the first trial.

    Others are taken only where their plan is `surely_better` than the unscaled table's.

    Trials live in the SQLite file or the database `storage` under `name`: a study that was stopped
    goes on where it was, several processes may share it, and what a killed one was at is tried
    again. `workers` trials run at the same time; `true_loss` must be fit for that, `solve` need
    not. With nothing to vary the neutral knobs are returned.
    """
    names = knob_names(sites)
    neutral = dict.fromkeys(names, 0.0)
    if isinstance(storage, Path) and storage.exists() and not _is_sound(storage, name):
        note(f"{storage} is damaged; the search begins again, with the losses that are known")
        remove(storage)
    study = _study(storage, name, seed=seed, workers=workers)
    wanted = trials if names else 1
    solving = threading.Lock()

    def finished() -> int:
        return sum(trial.state == TrialState.COMPLETE for trial in study.trials)

    def objective(trial: optuna.Trial) -> float:
        knobs = {knob: trial.suggest_float(knob, -_SPAN, _SPAN) for knob in names}
        with solving:
            plan = solve(knobs)
        loss = true_loss(plan)
        trial.set_user_attr(_CHECKSUM, digest([knobs, loss]))
        return loss

    def told(study: optuna.Study, _trial: optuna.trial.FrozenTrial) -> None:
        done = finished()
        progress(min(done, wanted), wanted)
        if done >= wanted:
            study.stop()

    if not any(trial.state in _HOPEFUL for trial in study.trials):
        study.enqueue_trial(neutral)
    progress(min(finished(), wanted), wanted)
    while (left := wanted - finished()) > 0:
        # Two processes on one SQLite file may try the same waiting trial; the later one goes on.
        with suppress(UpdateFinishedTrialError):
            study.optimize(objective, n_trials=left, n_jobs=workers, callbacks=[told])
    best = study.best_params or neutral
    if best == neutral or not surely_better(solve(best), solve(neutral)):
        return neutral
    return best


class _Storage(RDBStorage):
    """SQLite locks no rows: without this lock two threads take the same waiting trial."""

    _taking = threading.Lock()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Set the state under the lock; see `RDBStorage` for what is raised."""
        with self._taking:
            return bool(super().set_trial_state_values(trial_id, state, values))


def _is_sound(storage: Path, name: str) -> bool:
    """Whether a file holds a database, and every finished trial the loss that it was told.

    Trials of before there were checksums are not trusted.
    """
    try:
        with contextlib.closing(sqlite3.connect(storage)) as raw:
            if raw.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                return False
        study = _study(storage, name, seed=0, workers=1)
        return all(
            trial.user_attrs.get(_CHECKSUM) == digest([trial.params, trial.value])
            for trial in study.trials
            if trial.state == TrialState.COMPLETE
        )
    except Exception:  # whatever SQLAlchemy and Optuna make of what is in there
        _LOG.info("the trials in %s cannot be read", storage, exc_info=True)
        return False


def _study(storage: Path | str, name: str, *, seed: int, workers: int) -> optuna.Study:
    """The study `name`, new or as others left it; heartbeats tell whose worker is gone."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = f"sqlite:///{storage}" if isinstance(storage, Path) else storage
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        database = _Storage(
            url,
            heartbeat_interval=_HEARTBEAT_S,
            grace_period=_GRACE_S,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            # Optuna never disposes of its engine: a pool would keep connections open for good.
            engine_kwargs={"poolclass": NullPool},
        )
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=8, constant_liar=workers > 1)
    return optuna.create_study(
        storage=database, study_name=name, load_if_exists=True, sampler=sampler
    )
