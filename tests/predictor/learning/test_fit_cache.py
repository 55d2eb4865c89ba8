"""Fits are kept as data, made again where they are damaged, and done without where need be."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from autotune.core import paths
from autotune.predictor.learning import fit_cache
from autotune.predictor.learning.fit_cache import content, kept_fit

X = np.random.default_rng(0).normal(size=(200, 3))
Y = X[:, 0] + X[:, 1] ** 2


class Fitting:
    """Fits a model, and counts how often."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1
        model = HistGradientBoostingRegressor(max_iter=5, random_state=0).fit(X, Y)
        return {"model": model, "edges": [np.arange(3.0)], "width": 0.25, "samples": [(X, (Y, Y))]}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    return paths.fits_cache()


def test_a_fit_is_made_once_and_predicts_the_same_bits():
    fitting = Fitting()
    first, again = (kept_fit({"of": "this"}, fitting) for _ in range(2))
    assert fitting.count == 1
    assert (first["model"].predict(X) == again["model"].predict(X)).all()
    assert again["width"] == 0.25
    assert (again["edges"][0] == np.arange(3.0)).all()
    assert (again["samples"][0][1][1] == Y).all()


def test_another_name_or_another_source_is_another_fit(monkeypatch):
    fitting = Fitting()
    kept_fit({"of": "this"}, fitting)
    kept_fit({"of": "that"}, fitting)
    monkeypatch.setattr(fit_cache, "_source", lambda: "changed")
    kept_fit({"of": "this"}, fitting)
    assert fitting.count == 3


def test_content_names_values_and_shape():
    assert content(X, Y) == content(X.copy(), np.asfortranarray(Y))
    assert content(np.asfortranarray(X)) == content(X), "values count, not how they lie in memory"
    assert len({content(X), content(X[1:]), content(X.T), content(-X)}) == 4
    assert content(X.reshape(3, -1)) != content(X)


@pytest.mark.parametrize("damage", [b"", b"no zip", None])
def test_a_damaged_file_is_made_again(cache, damage):
    fitting = Fitting()
    kept_fit({}, fitting)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    kept_fit({}, fitting)
    assert fitting.count == 2
    kept_fit({}, fitting)
    assert fitting.count == 2, "the damaged file was replaced"


def test_a_file_of_another_kind_of_object_is_not_loaded(cache):
    """Only what trees are made of is trusted: a file may have been put there."""
    from skops import io

    fitting = Fitting()
    kept_fit({}, fitting)
    (path,) = cache.iterdir()
    io.dump({"model": os.path.join}, path)
    kept_fit({}, fitting)
    assert fitting.count == 2


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "file"))
    fitting = Fitting()
    assert kept_fit({}, fitting)["width"] == 0.25
    assert kept_fit({}, fitting)["width"] == 0.25
    assert fitting.count == 2


def test_to_read_a_fit_imports_no_more_than_it_is_made_of():
    """skops imports all of scikit-learn for a list that is not needed, and with it torch."""
    code = (
        "import sys, numpy, scipy.special, sklearn.utils\n"
        "every = sklearn.utils.all_estimators\n"
        "names = dir(numpy), dir(scipy.special)\n"
        "from autotune.predictor.learning.fit_cache import _skops\n"
        "assert callable(_skops().load)\n"
        "assert sklearn.utils.all_estimators is every\n"
        "assert (dir(numpy), dir(scipy.special)) == names\n"
        "assert 'torch' not in sys.modules\n"
        # A program's own skops trusts what it always trusts.
        "from skops.io import _trusted_types\n"
        "assert len(_trusted_types.SKLEARN_ESTIMATOR_TYPE_NAMES) > 50\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
