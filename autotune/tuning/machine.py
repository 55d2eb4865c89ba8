"""Machines: where a model is tuned for, and what measures there.

A machine is chosen once, by `find_machine` (machines.py): this host, a device that is known by
tables only, or a device on a farm. Everything else asks the machine and does not know which it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from autotune.core.errors import UsageError, option_name
from autotune.core.forms import NATIVE, Form, low_rank
from autotune.core.layers import LayerShape
from autotune.core.progress import Advance
from autotune.core.types import Fingerprint
from autotune.devices.specs import DeviceSpec
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.network.model import NetworkModel
from autotune.profiler.backends.base import Backend
from autotune.profiler.measure.nodes import SiteProfile
from autotune.profiler.measure.timing import PairedTiming
from autotune.results.layer_timings import LayerTimings
from autotune.search.evaluator import EvaluatorSetup
from autotune.search.judges import JudgePool

if TYPE_CHECKING:
    from autotune.predictor.network.added_up import NetworkPrices
    from autotune.tuning.builders import Builder
    from autotune.tuning.model import TracedModel
    from autotune.tuning.workspace import Workspace


class Machine(ABC):
    """A device with the backend, the dtype and the threads that a model runs with there.

    Contract (`autotune.testing.suites.machine` checks it):
    - All latencies of a machine belong to its `fingerprint`, which stays the same while it is open.
    - What `measure_layers` measured is kept: `known_layers` has it afterwards, also of a machine
      that is made anew on the same database. What settled is not measured again; what did not is
      measured again whenever it is asked for, in a bounded time.
    - A `verified` machine measures: `compare` times networks on the device. One that is not
      verified prices everything from tables: its `compare` raises MeasurementError, and what is
      handed out for it is a prediction.
    - A machine is used by one thread. As a context manager it closes what it opened.
    """

    verified: bool
    keeps_timings = False
    has_measured = False

    def __init__(
        self,
        *,
        spec: DeviceSpec,
        device_name: str,
        backend: Backend,
        dtype: str,
        threads: int,
        measure_seconds: float,
    ) -> None:
        """`device_name` is what the device calls itself, or the title of its sheet.

        `measure_seconds` caps one measurement of a network; a layer and a few of its ranks get a
        tenth of it.
        """
        self.measure_seconds = measure_seconds
        self.spec = spec
        self.device_name = device_name
        self.backend = backend
        self.dtype = dtype
        self.threads = threads

    @property
    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """What the latencies belong to: device, backend, dtype, threads, versions, settings."""

    def structures(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Those of `wanted` that factors can have in networks on this machine.

        Raises:
            UsageError: none of them.
        """
        found = tuple(each for each in wanted if self._has_form(low_rank(1, each)))
        if not found:
            raise UsageError(
                f"{option_name('method.factors')} {wanted[0]}: the latency of {wanted[0]} factors "
                f"is not known on {self.device_name} ({self.backend.name}); choose plain or auto"
            )
        return found

    def precisions(self, wanted: Sequence[str], *, all_of_them: bool) -> tuple[str, ...]:
        """Those of `wanted` that layers can have in networks on this machine.

        Raises:
            UsageError: one is missing, and `all_of_them` were asked for.
        """
        found = tuple(each for each in wanted if self._has_form(Form(precision=each)))
        if all_of_them and len(found) < len(wanted):
            lacking = next(each for each in wanted if each not in found)
            raise UsageError(
                f"{option_name('method.precision')} {lacking}: {self._why_not(lacking)}; "
                f"choose {' or '.join(found)}, or auto for all that it offers"
            )
        return found

    def promising_precisions(self, model: TracedModel, workspace: Workspace) -> tuple[str, ...]:
        """Those of the model's precisions in which some dense layer is faster, native first."""
        del workspace
        return model.precisions

    def _why_not(self, precision: str) -> str:
        """Why layers cannot have a precision here."""
        backend, device = self.backend, self.device_name
        if backend.implements(Form(precision=precision)):
            return f"the latency of such layers is not known on {device} ({backend.name})"
        text = f"{backend.name} does not run such layers well on {device}"
        if backend.device == "cpu" and not backend.runs_int8():
            text += ", which has no instructions that sum 8-bit products in 32 bits (VNNI or AMX)"
        return text

    def _has_form(self, form: Form) -> bool:
        """Whether layers of the form can be priced here."""
        return self.backend.implements(form)

    def inference_dtypes(self) -> tuple[str, ...]:
        """The dtypes that networks of a model can be run in here, the model's own first."""
        return (self.dtype,)

    def network_dtypes(self, wanted: Sequence[str], *, all_of_them: bool) -> tuple[str, ...]:
        """Those of `wanted` that networks can be run in; `native` stands for the machine's own.

        Raises:
            UsageError: one is missing, and `all_of_them` were asked for.
        """
        offered = self.inference_dtypes()
        named = [self.dtype if each == NATIVE else each for each in wanted]
        lacking = [each for each in named if each not in offered]
        if all_of_them and lacking:
            raise UsageError(
                f"{option_name('method.precision')} {lacking[0]}: {self.backend.name} does not run "
                f"networks in {lacking[0]} on {self.device_name}; choose native, or auto for all "
                "that it offers"
            )
        return tuple(dict.fromkeys(each for each in named if each in offered))

    def in_dtype(self, dtype: str) -> Machine:
        """This machine as networks in another of its `inference_dtypes` find it.

        Layers have latencies of their own in each dtype. It is closed with this machine.
        """
        assert dtype == self.dtype, "a machine with several dtypes overrides this"
        return self

    @property
    def product_sd_s(self) -> float:
        """Standard deviation between times of what one matrix product takes, in seconds.

        It is what one measurement cannot see (`spells.at_any_time`); 0: all times are alike.
        """
        return 0.0

    @property
    @abstractmethod
    def rank_multiple(self) -> int:
        """Aligned ranks are multiples of this."""

    @abstractmethod
    def known_layers(self, *, allow_extrapolation: bool) -> tuple[LatencyPredictor, list[str]]:
        """What is known of layers without measuring anything, and its sources.

        With `allow_extrapolation`, shapes far from everything measured are answered as well.
        """

    @abstractmethod
    def network_prices(self, *, allow_extrapolation: bool) -> tuple[NetworkPrices, list[str]]:
        """What prices every operation of a network without measuring anything, and its sources.

        Raises:
            UsageError: nothing is known in this dtype.
        """

    @abstractmethod
    def network(self, builder: Builder, *, all_pairs: bool = False) -> NetworkModel:
        """The latency model of the builder's network, before any plan is built.

        With `all_pairs`, pairs in a precision that cannot save time are priced as well.

        Raises:
            MeasurementError: the backend failed on the dense network, or a layer has no price.
        """

    @abstractmethod
    def measure_layers(
        self, shapes: Collection[LayerShape], workspace: Workspace, *, stage: str
    ) -> LatencyPredictor:
        """The table of layers after those of `shapes` that it lacks were measured."""

    @abstractmethod
    def compare(
        self, builds: Sequence[Path], inputs: Path, *, final: bool, advance: Advance
    ) -> PairedTiming:
        """Time networks in turn on the same inputs; the first is the reference.

        A `final` measurement, of what is handed out, takes up to twice the time.

        Raises:
            MeasurementError: the backend failed or hung.
        """

    def compare_briefly(
        self, builds: Sequence[Path], inputs: Path, *, streams: int = 1, advance: Advance
    ) -> PairedTiming | None:
        """The same in a few seconds; None where the machine does not.

        `streams` of each network run at the same time, on their share of the threads; latencies are
        seconds for one pass of all streams / their number.

        Raises:
            MeasurementError: the backend failed or hung.
        """
        del builds, inputs, streams, advance
        return None

    def site_latencies(
        self, build: Path, inputs: Path, *, sites: Sequence[str], advance: Advance
    ) -> SiteProfile | None:
        """Seconds of every site inside a running network; None where that cannot be observed."""
        del build, inputs, sites, advance
        return None

    def judges(self, setup: EvaluatorSetup) -> JudgePool | None:
        """Judges of plans that come with the machine; None where plans are judged on this host."""
        del setup
        return None

    def sources(self) -> list[str]:
        """Where a prediction's numbers come from; empty for a machine that measures."""
        return []

    def disturbances(self) -> list[str]:
        """What would disturb a measurement, as found by `prepare`; empty where it is not known."""
        return []

    def cpu_features(self) -> tuple[str, ...]:
        """Instructions of a processor that its latencies and roundings depend on, where known."""
        return ()

    def keep_timings(self) -> None:
        """Measure nothing again that is known, settled or not."""
        self.keeps_timings = True

    def layer_timings(self) -> LayerTimings | None:
        """How well the layers that were asked for are known; None where nothing is measured."""
        return None

    def prepare(self) -> None:  # noqa: B027 (most have nothing to prepare)
        """Fail now, before anything long, if what the machine needs cannot be had.

        Raises:
            AutotuneError: what is missing; a UsageError where other options would help.
        """

    def after(self, other: Machine) -> Self:
        """This machine, prepared by what another one on the same host found in its place."""
        del other
        self.prepare()
        return self

    def close(self) -> None:  # noqa: B027 (most open nothing)
        """Close the connections and processes that the machine opened; it may be called again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
