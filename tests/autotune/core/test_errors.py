"""The documented tree of errors is the one that there is."""

import ast
import importlib
import pkgutil
import re
import textwrap

import pytest

import autotune
from autotune.core import errors
from autotune.core.errors import AutotuneError, ExitCode
from autotune.service import client
from autotune.service import errors as service_errors
from autotune.service.errors import ServiceError

LINE = re.compile(r"^ {4}((?:[│├└─ ]{4})*)(\w+Error)(?: \(\w+\))?(?: +(\d+))?", re.MULTILINE)


def tree(doc):
    """Name, name of the parent, and number of each line of a tree; a missing one is inherited."""
    path, found = [], {}
    for indent, name, number in LINE.findall(doc):
        del path[len(indent) // 4 :]
        inherited = path[-1][1] if path else None
        path.append((name, int(number) if number else inherited))
        found[name] = (path[-2][0] if len(path) > 1 else None, path[-1][1])
    return found


def subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_the_tree_of_errors_is_documented_with_its_exit_codes():
    for module in pkgutil.walk_packages(autotune.__path__, "autotune."):
        if module.name.rpartition(".")[2] in (
            "errors",
            "childprocess",
            "options",
            "answers",
            "lock",
        ):
            importlib.import_module(module.name)
    documented = tree(errors.__doc__)
    actual = {
        kind.__name__: (kind.__bases__[0].__name__, int(kind.exit_code))
        for kind in subclasses(AutotuneError)
        if kind.__module__.startswith("autotune.") and not issubclass(kind, ServiceError)
    }
    actual["ServiceError"] = ("AutotuneError", int(ServiceError.exit_code))
    assert documented.pop("AutotuneError") == (None, ExitCode.FAILED)
    assert documented == actual


def test_the_tree_of_the_services_errors_is_documented_with_its_statuses():
    documented = tree(service_errors.__doc__)
    assert documented.pop("AutotuneError") == (None, None)
    actual = {
        kind.__name__: (kind.__bases__[0].__name__, kind.status)
        for kind in (ServiceError, *subclasses(ServiceError))
    }
    assert documented == actual


@pytest.mark.parametrize("module", [client])
def test_the_example_of_a_module_is_python(module):
    lines = [line for line in module.__doc__.splitlines() if line.startswith("    ")]
    names = {
        node.id
        for node in ast.walk(ast.parse(textwrap.dedent("\n".join(lines))))
        if isinstance(node, ast.Name)
    }
    assert {"Client", "client", "job"} <= names
