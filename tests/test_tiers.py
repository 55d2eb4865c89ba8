"""What `pytest` selects, in which order, and how a seed and an outcome are reported."""

import importlib.util
import json
import random
import subprocess
from pathlib import Path

import pytest

from tests.outcomes import assert_finished
from tests.seeds import VARIABLE, generator_for

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[1]
CONFTEST = """
from tests import module_times, tiers
from tests.seeds import moments, pytest_runtest_makereport, pytest_terminal_summary

def pytest_addoption(parser):
    tiers.add_option(parser)
    module_times.add_option(parser)

def pytest_configure(config):
    if count := config.getoption("--module-times"):
        config.pluginmanager.register(module_times.ModuleTimes(count))
    for name in (*tiers.BEYOND_FAST, "duration(seconds)"):
        config.addinivalue_line("markers", name)
    tiers.resolve(config)

def pytest_collection_modifyitems(config, items):
    tiers.select(config, items)
    tiers.order(items)
"""


@pytest.fixture
def suite(pytester):
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        test_a="def test_quick(): pass",
        test_b="""
            import pytest
            pytestmark = pytest.mark.farm
            def test_on_a_farm(): pass
        """,
        test_c="""
            import pytest
            def test_quick(): pass
            @pytest.mark.slow
            @pytest.mark.duration(60)
            def test_long(): pass
        """,
    )
    return pytester


def ran(pytester, *arguments):
    result = pytester.runpytest_inprocess("-v", "-p", "no:cacheprovider", *arguments)
    return [line.split(" ")[0] for line in result.outlines if " PASSED" in line]


LONG, FARM = ["test_c.py::test_quick", "test_c.py::test_long"], ["test_b.py::test_on_a_farm"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ["test_a.py::test_quick", "test_c.py::test_quick"]),
        (("--tier", "all"), [*LONG, "test_a.py::test_quick", *FARM]),
        (("test_b.py", "test_c.py"), [*LONG, *FARM]),
        (("-m", "farm"), FARM),
        (("test_c.py", "--tier", "fast"), LONG[:1]),
    ],
)
def test_what_is_named_runs_and_a_bare_call_runs_the_fast_tier(suite, arguments, expected):
    assert ran(suite, *arguments) == expected


def test_the_slowest_modules_are_listed_with_their_fixtures(pytester):
    """By durations that are set: those of a busy machine may come in any order."""
    durations = """
import pytest
SECONDS = {("test_a.py", "call"): 1.0, ("test_b.py", "setup"): 3.0}
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_logreport(report):
    report.duration = SECONDS.get((report.nodeid.partition("::")[0], report.when), 0.0)
    return (yield)
"""
    pytester.makeconftest(CONFTEST + durations)
    test = "def test_one(): pass"
    pytester.makepyfile(test_a=test, test_b=test, test_c=test)
    arguments = ("-p", "no:cacheprovider", "--module-times", "2")
    lines = pytester.runpytest_inprocess(*arguments).outlines
    (title,) = (at for at, line in enumerate(lines) if "2 slowest of 3 modules" in line)
    listed = [line.split() for line in lines[title + 1 :] if line][:3]
    assert [name for _, name in listed] == ["test_b.py", "test_a.py", "all"]
    assert [text for text, _ in listed] == ["3.0s", "1.0s", "4.0s"]


def test_every_marker_beyond_the_fast_tier_is_registered(pytestconfig):
    from tests.tiers import BEYOND_FAST

    registered = {line.split(":")[0] for line in pytestconfig.getini("markers")}
    assert registered >= BEYOND_FAST


def test_a_failure_shows_the_seed_that_replays_it(pytester, monkeypatch):
    monkeypatch.setenv(VARIABLE, "7")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("def test_x(moments): assert moments.random() == 2")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines([f"*{VARIABLE}=7 python -m pytest*test_x*", f"*{VARIABLE}=7"])


def test_draws_depend_on_the_seed_and_the_test(monkeypatch):
    def drawn(seed, name):
        monkeypatch.setenv(VARIABLE, seed)
        return generator_for(name).random()

    assert drawn("1", "a") == drawn("1", "a") == random.Random("1:a").random()
    assert len({drawn("1", "a"), drawn("2", "a"), drawn("1", "b")}) == 3


def finished(code, **changes):
    record = {
        "budget": {"latency": "0.9x"},
        "within_budget": True,
        "measured_ratio": 0.85,
        "measured_ratio_low": 0.84,
        "measured_ratio_high": 0.86,
        "budgets": {"parameters": {"limit": 10, "used": 10}},
        **changes,
    }
    return subprocess.CompletedProcess([], code, json.dumps(record), "")


def test_an_outcome_that_agrees_with_its_figures():
    missed = {"measured_ratio": 0.95, "measured_ratio_high": 0.96, "within_budget": False}
    assert assert_finished(finished(0))["measured_ratio"] == 0.85
    assert_finished(finished(1, **missed))
    assert_finished(finished(5, **{**missed, "within_budget": None, "verdict": "undecided"}))
    assert_finished(finished(0, budget={"latency": "9ms"}, dense_latency_s=0.01))


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        (1, {}),  # met, but the exit code says otherwise
        (0, {"within_budget": False}),
        (1, {"within_budget": False}),  # missed, but all of the interval lies below the budget
        (0, {"measured_ratio_low": 0.91, "measured_ratio_high": 0.93}),
        (0, {"budget": {"latency": "1ms"}, "dense_latency_s": 0.01}),
        (0, {"verdict": "missed"}),
        (0, {"budgets": {"parameters": {"limit": 10, "used": 11}}}),
    ],
)
def test_an_outcome_that_contradicts_itself_is_found(code, changes):
    with pytest.raises(AssertionError):
        assert_finished(finished(code, **changes))


@pytest.fixture
def check_tune():
    spec = importlib.util.spec_from_file_location("check_tune", ROOT / ".ci" / "check_tune.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checked(check_tune, tmp_path, monkeypatch):
    """Runs the check on a folder whose result has these figures."""

    def check(**changes):
        record = {
            "backend": "openvino-cpu",
            "measured_ratio": 0.4,
            "measured_ratio_low": 0.39,
            "measured_ratio_high": 0.41,
            "within_budget": True,
            "quality": {"compressed": 0.992},
            "compared": [{"name": "dense int8-static", "ratio": 0.41, "quality": 0.99}],
            **changes,
        }
        for name in check_tune.FILES:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(json.dumps(record))
        monkeypatch.setattr("sys.argv", ["check_tune", str(tmp_path)])
        check_tune.main()

    return check


SLOWER = {
    "measured_ratio": 1.1,
    "measured_ratio_low": 1.05,
    "measured_ratio_high": 1.15,
    "within_budget": False,
}


def test_ci_passes_where_the_main_job_keeps_its_floor_and_is_no_slower(checked, capsys):
    checked()
    assert "dense int8-static 0.410 at 0.9900" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"quality": {"compressed": 0.98}}, "floor"),
        ({"within_budget": None}, "not surely as fast"),
        ({"measured_ratio": 0.5}, "lies outside"),
        ({"compared": []}, "compared"),
        (SLOWER, "not surely as fast"),
    ],
)
def test_ci_fails_where_the_main_job_fails(checked, changes, error):
    with pytest.raises(SystemExit, match=error):
        checked(**changes)
