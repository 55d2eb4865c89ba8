"""Jobs of a server with a farm: what is checked is what their processes will use."""

import dataclasses

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from autotune.cli.main import cli as root
from autotune.core.errors import UsageError
from autotune.service.app import create_app
from autotune.service.commands import serve
from autotune.service.runner import environment_of
from tests.autotune.service.conftest import TUNE
from tests.autotune.service.test_http import LAYER, message, submit

FARM, TOKEN = "10.0.0.1:6380", "t" * 40


@pytest.fixture
def on_farm(settings):
    return dataclasses.replace(settings, farm=FARM, farm_token=TOKEN)


@pytest.fixture
def client(on_farm, database):
    with TestClient(create_app(on_farm, database)) as found:
        yield found


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("tune", {**TUNE, "device": "t4"}),
        ("profile", {**LAYER, "device": "h200"}),
        ("profile", {**LAYER, "device": "h200", "threads": 9999}),  # of a worker
    ],
)
def test_a_device_of_the_farm_need_not_be_here(kind, spec, client):
    answer = submit(client, kind, spec)
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("tune", {**TUNE, "device": "abacus"}, "abacus"),
        ("profile", {**LAYER, "device": "h200", "backend": "onnxruntime-cpu"}, "needs a CPU"),
        ("profile", {**LAYER, "device": "h200", "forms": ["rank=8:pivoted:zz"]}, "implementation"),
        ("drift", {"device": "h200"}, "not on this machine"),  # which the farm does not do
    ],
)
def test_what_no_farm_can_do_is_refused(kind, spec, said, client):
    answer = submit(client, kind, spec)
    assert answer.status_code == 422
    assert said in message(answer)


def test_a_jobs_process_finds_the_farm_and_its_token(settings, on_farm):
    found = environment_of(on_farm)
    assert (found["AUTOTUNE_FARM"], found["AUTOTUNE_FARM_TOKEN"]) == (FARM, TOKEN)
    assert environment_of(settings)["AUTOTUNE_FARM"] == ""  # whatever the server's own says
    assert TOKEN not in repr(on_farm)


def served(monkeypatch, tmp_path, *arguments):
    """The settings that `autotune serve` starts with."""
    found = []

    class StoppedError(Exception):
        pass

    def stop(options):
        found.append(whole(options))
        raise StoppedError

    whole = serve.settings_of
    monkeypatch.setattr(serve, "settings_of", stop)
    done = CliRunner().invoke(root, ["serve", "--data", str(tmp_path), *arguments])
    if not isinstance(done.exception, StoppedError):
        raise done.exception
    return found[0]


def test_serve_takes_the_farm_from_its_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOTUNE_FARM", FARM)
    monkeypatch.setenv("AUTOTUNE_FARM_TOKEN", TOKEN)
    found = served(monkeypatch, tmp_path)
    assert (found.farm, found.farm_token) == (FARM, TOKEN)
    monkeypatch.undo()
    assert served(monkeypatch, tmp_path).farm is None


def test_serve_refuses_a_farm_that_no_job_could_use(monkeypatch, tmp_path):
    monkeypatch.delenv("AUTOTUNE_FARM_TOKEN", raising=False)
    nowhere = ("--token-file", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="token of at least 32 characters"):
        served(monkeypatch, tmp_path, "--farm", FARM, *nowhere)
    with pytest.raises(UsageError, match="IP:PORT"):
        served(monkeypatch, tmp_path, "--farm", "nowhere")
