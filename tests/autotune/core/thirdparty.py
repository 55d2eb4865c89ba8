"""A small distribution of somebody else: a metric, an allocator and a backend, and a broken one.

`install(folder)` writes what `pip install` would leave in a folder of the search path.
"""

PARTS = '''
from typing import Annotated, Literal

from autotune.compress.metrics.base import Metric, Whitening
from autotune.core.plugin_options import Bounds
from autotune.profiler.backends.torch_eager import TorchEager
from autotune.search.allocators.uniform import Uniform


class Third(Metric):
    """The weight alone, scaled."""

    moments = frozenset()

    def __init__(
        self,
        power: Annotated[float, Bounds(ge=0, le=1)] = 0.5,
        steps: int = 1,
        quick: bool = False,
        mode: Literal["sum", "mean"] = "sum",
        label: str = "",
        limit: Annotated[int, Bounds(ge=1)] | None = None,
    ) -> None:
        self.name = "third"
        self.power, self.steps, self.quick = power, steps, quick
        self.mode, self.label, self.limit = mode, label, limit

    def whitening(self, site, statistics):
        return Whitening(left=None, right=None, scale=1.0 + self.power)


class ThirdUniform(Uniform):
    """As uniform."""

    name = "third-uniform"


class ThirdEager(TorchEager):
    """As torch-eager."""

    name = "third-eager"


class Fails:
    def __init__(self):
        raise RuntimeError("no licence")
'''
ENTRY_POINTS = """
[autotune.metrics]
third = third_party.parts:Third
kfac = third_party.parts:Third
broken = third_party.gone:Broken
fails = third_party.parts:Fails
no:name = third_party.parts:Third

[autotune.allocators]
third-uniform = third_party.parts:ThirdUniform

[autotune.backends]
third-eager = third_party.parts:ThirdEager
"""


def install(folder, name="third-party", entry_points=ENTRY_POINTS):
    """Write the distribution to a folder."""
    package = folder / "third_party"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(PARTS)
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    return folder
