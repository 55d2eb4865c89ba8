"""Tests of the contract of `autotune.testing.hardware.Hardware`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from autotune.core.errors import UsageError
from autotune.core.forms import Plan, low_rank
from autotune.core.layers import LayerShape, Site
from autotune.testing.hardware import Hardware
from autotune.testing.shapes import at_rank

_SIZES = ((1, 256, 512), (64, 384, 384), (128, 512, 1536))


class HardwareSuite:
    """Give the fixture `make_hardware`, which makes the same device each time."""

    @pytest.fixture
    def make_hardware(self) -> Callable[[], Hardware]:
        """A function that makes the hardware under test."""
        raise NotImplementedError("give a fixture named make_hardware")

    @pytest.fixture
    def hardware(self, make_hardware: Callable[[], Hardware]) -> Hardware:
        """The hardware under test, which a subclass provides."""
        return make_hardware()

    def shapes(self, hardware: Hardware) -> list[LayerShape]:
        """Dense layers, pairs and layers with one input, in the device's usual dtype."""
        dtype = hardware.settings.default_dtype
        dense = [
            LayerShape(tokens=m, in_features=k, out_features=n, dtype=dtype) for m, k, n in _SIZES
        ]
        pairs = [at_rank(shape, rank) for shape in dense for rank in (32, 97)]
        parts = [dataclasses.replace(dense[-1], parts=(512, 512, 512))]
        return [*dense, *pairs, *parts]

    def sites(self) -> tuple[Site, ...]:
        """Two blocks of two layers."""
        return tuple(
            Site(name=f"{b}.{n}", in_features=4096, out_features=n, tokens=2048, block=b)
            for b in range(2)
            for n in (4096, 8192)
        )

    def test_kernels_take_time(self, hardware: Hardware) -> None:
        """Every layer has kernels; their seconds and bytes are finite and not negative."""
        for shape in self.shapes(hardware):
            kernels = hardware.kernels(shape)
            assert kernels
            for kernel in kernels:
                values = dataclasses.asdict(kernel).values()
                assert all(0 <= value < math.inf for value in values)
                assert kernel.busy_s > 0
            assert 0 < hardware.layer_latency_s(shape) < math.inf

    def test_the_same_settings_are_the_same_device(
        self, make_hardware: Callable[[], Hardware]
    ) -> None:
        """Equal seconds and identities of two instances, in any order and thread."""
        one, two = make_hardware(), make_hardware()
        shapes = self.shapes(one)
        with ThreadPoolExecutor(4) as threads:
            first = list(threads.map(one.layer_latency_s, shapes))
        assert [two.layer_latency_s(shape) for shape in reversed(shapes)] == first[::-1]
        assert one.identity == two.identity
        assert one.identity
        assert one.settings == two.settings

    def test_an_unknown_dtype_is_refused(self, hardware: Hardware) -> None:
        """A dtype without a rate raises `UsageError` that names it."""
        shape = dataclasses.replace(self.shapes(hardware)[0], dtype="fp8")
        with pytest.raises(UsageError, match="fp8"):
            hardware.kernels(shape)

    def test_less_work_makes_a_faster_network(self, hardware: Hardware) -> None:
        """Networks have positive seconds, fewer where every large layer is a small pair."""
        sites = self.sites()
        small: Plan = {site.name: low_rank(64) for site in sites}
        dense_s = hardware.network_latency_s(sites, {})
        assert 0 < hardware.network_latency_s(sites, small) < dense_s < math.inf
        assert hardware.network_latency_s(sites, {}) == dense_s

    def test_an_unknown_phase_is_refused(self, hardware: Hardware) -> None:
        """A phase that the settings have no share for raises `UsageError` that names it."""
        with pytest.raises(UsageError, match="warmup"):
            hardware.network_latency_s(self.sites(), {}, phase="warmup")

    def test_its_sheet_is_what_a_predictor_may_know(self, hardware: Hardware) -> None:
        """`settings.spec` names the device, with rates for its usual dtype and no true latency."""
        spec = hardware.settings.spec
        assert spec.name == hardware.settings.present.spec.name
        assert spec.peak_flops[hardware.settings.default_dtype] > 0
        assert spec.rank_multiple(hardware.settings.default_dtype) >= 1
