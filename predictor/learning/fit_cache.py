"""Fitted models kept as data between runs: skops files, which hold JSON and arrays and no pickle.

A fit is named by what it was made from: the data, the versions of the libraries, and the source of
the modules that make it. A file that cannot be read is made again; one that cannot be written is
done without.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.core.errors import StorageError
from autotune.core.files import write_whole
from autotune.core.paths import fits_cache
from autotune.core.types import digest

# What fits are made of, besides arrays and numbers.
_TRUSTED = (
    "sklearn.ensemble._forest.ExtraTreesRegressor",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._classes.ExtraTreeRegressor",
    "sklearn.tree._tree.Tree",
)
# What skops lists when it is imported: no fit here is made of it.
_LISTS = (("sklearn.utils", "all_estimators"), ("numpy", "__dir__"), ("scipy.special", "__dir__"))
_LIBRARIES = ("scikit-learn", "numpy", "skops")
_PREDICTOR = Path(__file__).resolve().parent.parent

Fit = dict[str, Any]


def kept_fit(made_from: Mapping[str, Any], fit: Callable[[], Fit]) -> Fit:
    """The fit of this name from the cache, or `fit()`, kept for the next time.

    Args:
        made_from: JSON of everything that decides what `fit` returns, but for code and libraries;
            of arrays, their `content`.
        fit: Makes a dictionary of estimators of scikit-learn, arrays, numbers, lists and tuples.
    """
    path = fits_cache() / f"{_name(made_from)}.skops"
    found = _read(path)
    if found is None:
        found = fit()
        _keep(path, found)
    return found


def content(*arrays: NDArray[np.float64]) -> str:
    """The sha256 of arrays: the name of a table does not show which of its rows were used."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(str(array.shape).encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def _name(made_from: Mapping[str, Any]) -> str:
    libraries = {name: version(name) for name in _LIBRARIES}
    return digest({"from": made_from, "libraries": libraries, "source": _source()})[:32]


def _source() -> str:
    """The sha256 of the modules of the predictor."""
    total = hashlib.sha256()
    for path in sorted(_PREDICTOR.rglob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


@functools.cache
def _skops() -> Any:
    """The module `skops.io`, in a copy of our own without its lists of what others define.

    To list scikit-learn's estimators it imports all of it and what that may use, torch among it; to
    list functions of NumPy and SciPy it searches every loaded module for each, which takes a
    second. A program that imports skops itself gets one that trusts all these, as ever.
    """
    if "skops" in sys.modules:
        return importlib.import_module("skops.io")
    with contextlib.ExitStack() as stack:
        for module, name in _LISTS:
            stack.enter_context(_empty(importlib.import_module(module), name))
        try:
            return importlib.import_module("skops.io")
        finally:
            for name in [each for each in sys.modules if each.partition(".")[0] == "skops"]:
                del sys.modules[name]


@contextlib.contextmanager
def _empty(module: ModuleType, name: str) -> Iterator[None]:
    """A function of a module that returns an empty list meanwhile."""
    own = vars(module).get(name)
    setattr(module, name, lambda *_, **__: [])
    try:
        yield
    finally:
        if own is None:
            delattr(module, name)
        else:
            setattr(module, name, own)


def _read(path: Path) -> Fit | None:
    if not path.is_file():
        return None
    try:
        found = _skops().load(path, trusted=list(_TRUSTED))
    except Exception:  # whatever a damaged file raises
        return None
    return found if isinstance(found, dict) else None


def _keep(path: Path, fit: Fit) -> None:
    with contextlib.suppress(StorageError):
        write_whole(path, lambda temporary: _skops().dump(fit, temporary))
