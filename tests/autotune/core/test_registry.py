"""Parts of other distributions, through entry points, and the options of parts."""

import os
import sys
from typing import Annotated, Literal

import pytest

from autotune.compress.metrics import METRICS, make_metric
from autotune.core.errors import UsageError
from autotune.core.plugin_options import Bounds, convert_options
from autotune.core.registry import Registry, check_spec, make, parse_spec
from autotune.profiler.backends import BACKENDS, make_backend
from autotune.search.allocators import ALLOCATORS, make_allocator
from tests.autotune.thirdparty.distribution import install


@pytest.fixture
def third(tmp_path, monkeypatch):
    """The distribution is installed."""
    monkeypatch.syspath_prepend(install(tmp_path / "site"))
    yield tmp_path / "site"
    for name in [name for name in sys.modules if name.startswith("third_party")]:
        del sys.modules[name]


def test_parts_of_another_distribution_are_listed_and_made(third):
    assert list(METRICS)[-3:] == ["broken", "depth-weighted", "fails"]
    assert METRICS.distribution("depth-weighted") == "third-party"
    assert METRICS.distribution("weight") is None
    assert "third_party" not in sys.modules  # listed, and nothing imported
    metric = make_metric("depth-weighted:emphasis=0.25,end=last")
    assert (metric.emphasis, metric.end) == (0.25, "last")
    assert make_allocator("tapered").name == "tapered"
    assert make_backend("exported-program", "cpu").name == "exported-program"
    assert {"tapered"} <= set(ALLOCATORS)
    assert {"exported-program"} <= set(BACKENDS)


def test_without_the_distribution_nothing_of_it_is_known():
    assert "depth-weighted" not in METRICS
    said = "unknown metric 'depth-weighted'; known are kfac-seq, "
    with pytest.raises(UsageError, match=said):
        make_metric("depth-weighted")


def test_an_own_name_cannot_be_replaced(third):
    assert METRICS["kfac"].startswith("autotune.")
    assert list(METRICS).count("kfac") == 1
    assert type(make_metric("kfac")).__module__.startswith("autotune.")
    assert not any(":" in name for name in METRICS)  # such a name could not be written


def test_what_goes_wrong_in_a_distribution_is_reported_with_its_name(third):
    check_spec("broken", METRICS)  # a name is checked without an import
    with pytest.raises(UsageError, match=r"'broken' of the distribution third-party cannot be loa"):
        make_metric("broken")
    with pytest.raises(UsageError, match=r"third-party failed \(RuntimeError: no licence\)"):
        make_metric("fails")


def test_a_name_of_two_distributions_is_refused_with_both(third, monkeypatch):
    points = {"autotune.metrics": {"depth-weighted": "third_party.metric:DepthWeighted"}}
    monkeypatch.syspath_prepend(install(third.parent / "more", "fourth-party", points))
    with pytest.raises(UsageError, match="fourth-party and third-party; uninstall all but one"):
        make_metric("depth-weighted")


class Part:
    def __init__(
        self,
        whole: int = 1,
        number: float = 1.0,
        switch: bool = False,
        text: str = "",
        share: Annotated[float, Bounds(ge=0, le=1)] = 0.5,
        least: Annotated[int, Bounds(ge=1)] = 1,
        choice: Literal["a", "b"] = "a",
        maybe: int | None = None,
        either: int | str = 0,
        free=None,
    ):
        self.values = locals()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("whole=-3", -3),
        ("number=2", 2.0),
        ("number=1e-3", 1e-3),
        ("switch=true", True),
        ("switch=false", False),
        ("text=5", "5"),
        ("text=true", "true"),
        ("share=1", 1.0),
        ("share=0", 0.0),
        ("least=1", 1),
        ("choice=b", "b"),
        ("maybe=4", 4),
        ("either=4", 4),
        ("either=x", "x"),
        ("free=4", 4),
        ("free=1.5", 1.5),
        ("free=true", True),
        ("free=x", "x"),
    ],
)
def test_values_have_the_type_of_the_annotation(text, value):
    key, _, written = text.partition("=")
    found = convert_options(Part, {key: written}, what="part")[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("whole=1.5", "whole must be a whole number, got '1.5'"),
        ("whole=nan", "whole must be a whole number"),
        ("whole=true", "whole must be a whole number"),
        ("number=nan", "number must be a finite number, got 'nan'"),
        ("number=-inf", "number must be a finite number"),
        ("number=1e999", "number must be a finite number"),
        ("number=x", "number must be a finite number"),
        ("switch=1", "switch must be true or false, got '1'"),
        ("switch=True", "switch must be true or false"),
        ("share=1.01", "share must be a finite number, at least 0 and at most 1, got '1.01'"),
        ("share=-0.1", "share must be a finite number, at least 0 and at most 1"),
        ("share=nan", "share must be a finite number"),
        ("least=0", "least must be a whole number, at least 1"),
        ("choice=c", "choice must be one of a, b"),
        ("maybe=x", "maybe must be a whole number"),
        ("colour=red", "unknown option 'colour'; known are whole, number"),
    ],
)
def test_values_of_another_type_or_out_of_bounds_are_refused(text, said):
    registry = Registry("part", "autotune.none", own={"it": f"{__name__}:Part"})
    with pytest.raises(UsageError, match=f"part it: .*{said}"):
        make(f"it:{text}", registry)


@pytest.mark.parametrize("text", ["it:x", "it:=1", "it:x=", "it: =1"])
def test_options_without_a_value_are_refused(text):
    with pytest.raises(UsageError, match="NAME:key=value"):
        parse_spec(text)


def test_names_of_another_distribution_are_in_help_and_messages(third, cli):
    path = os.pathsep.join(filter(None, [str(third), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    text = cli("tune", "--help", env=environment, fresh=True).stdout
    for name in ("depth-weighted", "tapered", "exported-program"):
        assert name in text
    done = cli("--params-budget", "0.95x", "--metric", "fourth", env=environment, fresh=True)
    assert done.returncode == 2
    assert "weight, broken, depth-weighted, fails" in done.stderr
