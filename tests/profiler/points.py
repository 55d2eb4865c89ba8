"""Points for tests of the latency database."""

from autotune.core.layers import LayerShape
from autotune.core.types import Fingerprint
from autotune.devices.health import ClockReading
from autotune.profiler.database.records import Detail, FailedMeasurement, Measurement
from tests.forms import form_of

FINGERPRINT = Fingerprint(
    device="cpu", device_name="test", backend="onnxruntime-cpu", dtype="fp32", threads=2
)


def point(rank=16, latency_s=1.2345678901234567e-3, error=None, **changes):
    """A measurement of a layer, or with an `error` a failed one; `changes` are of either."""
    sizes = {"tokens": 128, "in_features": 384, "out_features": 384, "dtype": "fp32", "parts": ()}
    given = {name: changes.pop(name, size) for name, size in sizes.items()}
    shape = LayerShape(**given, form=changes.pop("form", None) or form_of(rank))
    values = {"shape": shape, "measured_at": "2026-01-01T00:00:00+00:00"}
    if error is not None:
        return FailedMeasurement(**{**values, "error": error, **changes})
    values |= {
        "latency_s": latency_s,
        "dense_latency_s": 2e-3,
        "ratio": 0.6,
        "ratio_low": 0.59,
        "ratio_high": 0.61,
        "rounds": 10,
        "windows": 3,
        "disturbed_windows": 1,
        "converged": True,
    }
    return Measurement(**{**values, **changes})


DETAIL = Detail(
    quantiles_s=(1.0e-3, 1.1e-3, 1.2345678901234567e-3, 1.3e-3, 1.5e-3),
    samples_s=(1.1e-3, 1.2e-3, 1.2345678901234567e-3),
)
CLOCKS = tuple(
    ClockReading(
        moment=moment,
        read_at="2026-01-01T00:00:00.000+00:00",
        sm_mhz=1980,
        memory_mhz=3201,
        temperature_c=41,
        power_w=312.5,
        reasons=0,
    )
    for moment in ("before", "after")
)
