"""Every abstract class and protocol of the package has a suite, or a reason to have none."""

import importlib
import inspect
import pkgutil

import autotune
from autotune.testing import suites
from autotune.testing.suites import SUITES, WITHOUT_SUITE

# Nothing but what TensorRT itself brings can import these.
NOT_HERE = {
    "autotune.profiler.engines.build_engine",
    "autotune.profiler.engines.run_engine",
}


def classes():
    """Every class that a module of the package defines."""
    for module in pkgutil.walk_packages(autotune.__path__, "autotune."):
        if module.name in NOT_HERE or module.name.endswith("__main__"):
            continue
        for name, found in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(found) and found.__module__ == module.name:
                yield f"{module.name}.{name}", found


def test_every_abstract_class_has_a_suite():
    abstract = {
        name
        for name, found in classes()
        if inspect.isabstract(found) or getattr(found, "_is_protocol", False)
    }
    assert abstract == SUITES.keys() | WITHOUT_SUITE.keys()
    assert not SUITES.keys() & WITHOUT_SUITE.keys()


def test_every_suite_is_one_of_the_table():
    found = set()
    for module in pkgutil.iter_modules(suites.__path__):
        loaded = importlib.import_module(f"{suites.__name__}.{module.name}")
        found |= {f"{module.name}.{name}" for name in vars(loaded) if name.endswith("Suite")}
    assert found == set(SUITES.values())


def test_a_suite_says_what_it_checks():
    for abstract, suite in SUITES.items():
        module, _, name = suite.partition(".")
        loaded = importlib.import_module(f"{suites.__name__}.{module}")
        assert f"`{abstract}`" in loaded.__doc__
        tests = [value for key, value in vars(getattr(loaded, name)).items() if key[:5] == "test_"]
        assert len(tests) >= 4
        assert all(test.__doc__ for test in tests)
