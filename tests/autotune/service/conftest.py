"""A service without a network: its job database of both kinds, its application, a small model."""

import shutil

import pytest
from starlette.testclient import TestClient

from autotune.service.app import create_app
from autotune.service.jobs import JobDatabase
from autotune.service.settings import Quotas, Settings
from tests.conftest import LLAMA


@pytest.fixture(params=["sqlite", "postgres"])
def jobs(request, tmp_path):
    """An empty job database of each kind: what holds for the one holds for the other."""
    if request.param == "sqlite":
        address = tmp_path / "jobs.sqlite"
    else:
        address = request.getfixturevalue("postgres_server").new_database()
    with JobDatabase(address) as database:
        yield database


def make_roots(home):
    """A folder of models in `home`: code-llama-3m, and its text."""
    root = home / "models"
    shutil.copytree(LLAMA, root / "code-llama-3m")
    (root / "text.txt").write_text((LLAMA / "heldout.txt").read_text()[:40_000])
    return root


@pytest.fixture
def roots(tmp_path):
    return make_roots(tmp_path)


@pytest.fixture
def settings(tmp_path, roots):
    return Settings(
        data=tmp_path / "data",
        job_database=tmp_path / "data" / "jobs.sqlite",
        latency_database=tmp_path / "latency.sqlite",
        model_roots=(roots,),
        threads=1,
        quotas=Quotas(body_bytes=100_000, upload_bytes=1_000_000, uploaded_bytes=1_500_000),
        hosts=(*Settings.hosts, "testserver"),
    )


@pytest.fixture
def database(settings):
    with JobDatabase(settings.job_database) as found:
        yield found


@pytest.fixture
def client(settings, database):
    """Of an application whose jobs nobody runs."""
    app = create_app(settings, database)
    with TestClient(app, raise_server_exceptions=False) as found:
        yield found


TUNE = {
    "model": "code-llama-3m",
    "calibration": "text.txt",
    "latency_budget": "1x",
    "batch_size": 1,
    "isl": 64,
    "calibration_samples": 4,
    "trials": 0,
    "rounds": 1,
    "sensitivity_rounds": 0,
    "targets": ["mlp"],
    "allocator": "exact",
    "precision": "native",
    "factors": "plain",
    "joint": False,
}
