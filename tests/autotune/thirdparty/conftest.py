"""The distribution of docs/extending.md, installed for a test and the processes that it starts."""

import os
import sys

import pytest

from tests.autotune.thirdparty.distribution import install
from tests.autotune.tuning.conftest import compression, factors, model, workspace

__all__ = ["compression", "factors", "model", "workspace"]


@pytest.fixture
def third(tmp_path, monkeypatch):
    """The folder in which the distribution is installed."""
    site = install(tmp_path / "site")
    monkeypatch.syspath_prepend(site)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    yield site
    for name in [name for name in sys.modules if name.startswith("third_party")]:
        del sys.modules[name]
