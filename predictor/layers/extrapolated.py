"""Layer latencies on a device that nobody measured, from its sheet and other devices' tables."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from autotune.core.types import Interval
from autotune.devices.specs import DeviceSpec, find_device
from autotune.predictor.columns import SOURCE
from autotune.predictor.learning.fit_cache import kept_fit
from autotune.predictor.products.donors import Donor, UnseenDevice
from autotune.predictor.products.sums import Array, Prices, ProductSums
from autotune.profiler.database.records import Measurement
from autotune.profiler.sources.aiconfigurator import (
    PACKAGE,
    SHAPE,
    consensus,
    imported_devices,
    read_tables,
)

if TYPE_CHECKING:
    from autotune.predictor.products.adaptation import Adaptation

_MOST_OWN = 500
# Others timed bf16 only; tensor cores take both half precisions in the same time.
_TIMED = "bf16"


class ExtrapolatedLatency(ProductSums):
    """Seconds of layers on a device, learned from donors, corrected by its `own` points.

    Intervals are learned by leaving whole devices out, so they hold what a board of the device will
    show (of this project's H200, by another harness than the donors', 0.99 of the dense layers).
    """

    interval: Interval = "transfer"

    def __init__(self, device: UnseenDevice, *, own: Sequence[Measurement] = ()) -> None:
        """`device` as its donors teach it."""
        super().__init__()
        self._device = device
        dense = [row for row in own if row.shape.form.is_unchanged and not row.shape.parts]
        if dense:
            rows = np.random.default_rng(0).permutation(len(dense))[:_MOST_OWN]
            shapes = [dense[i].shape for i in rows]
            products = [(s.tokens, s.in_features, s.out_features) for s in shapes]
            seconds = np.array([dense[i].latency_s for i in rows], dtype=np.float64)
            self._device.adapt(np.array(products, dtype=np.float64), seconds)

    @property
    def adaptation(self) -> Adaptation | None:
        """What points of its own changed, if there are any."""
        return self._device.adaptation

    def adapted(self, own: Sequence[Measurement]) -> ExtrapolatedLatency:
        """The same device, corrected by other points of its own."""
        return ExtrapolatedLatency(copy.copy(self._device), own=own)

    def _price(self, products: Array) -> Prices:
        seconds, factor = self._device.predict_with_factors(products)
        return Prices(
            latency_s=seconds,
            factor=factor,
            source=np.full(len(products), "extrapolated", dtype=SOURCE),
        )


def unseen_device(spec: DeviceSpec, dtype: str) -> UnseenDevice:
    """The device as all donors teach it; the fit is kept for the next time."""
    made_from = {
        "tables": f"{PACKAGE} {version(PACKAGE)}",
        "dtype": dtype,
        "devices": [dataclasses.asdict(each) for each in (spec, *donor_specs(spec, dtype))],
    }
    fitted = kept_fit(
        made_from, lambda: UnseenDevice(spec, dtype).fit(donors_of(spec, dtype)).fitted
    )
    return UnseenDevice.of_fitted(spec, dtype, fitted=fitted)


def donor_specs(spec: DeviceSpec, dtype: str, *, blind: bool = False) -> list[DeviceSpec]:
    """Others' devices with a rate in `dtype`; `blind`: none of the family of `spec` either."""
    found = []
    for name in imported_devices():
        donor = find_device(name)
        kin = donor.family == spec.family if blind else name == spec.name
        if not kin and dtype in donor.peak_flops:
            found.append(donor)
    return found


def donors_of(spec: DeviceSpec, dtype: str, *, blind: bool = False) -> list[Donor]:
    """The tables of `donor_specs`."""
    found = []
    for donor in donor_specs(spec, dtype, blind=blind):
        rows = consensus(read_tables(donor.name, _TIMED))
        found.append(
            Donor(
                spec=donor,
                family=donor.family,
                products=rows[SHAPE].to_numpy(dtype=np.float64),
                seconds=rows["latency_s"].to_numpy(dtype=np.float64),
            )
        )
    return found
