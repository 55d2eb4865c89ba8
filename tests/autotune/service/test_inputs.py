"""Which models and files a job may read."""

import dataclasses

import pytest

from autotune.core.errors import UsageError
from autotune.service.errors import NotFoundError
from autotune.service.inputs import resolve


def model(settings, name):
    return resolve(settings, "tune", spec={"model": name})["model"]


def test_models_below_a_root_uploads_and_listed_hub_ids(settings, roots):
    (settings.uploads / "mine").mkdir(parents=True)
    assert model(settings, None) is None
    assert model(settings, "all-MiniLM-L6-v2") == "all-MiniLM-L6-v2"
    assert model(settings, "code-llama-3m") == str(roots / "code-llama-3m")
    assert model(settings, str(roots / "code-llama-3m")) == str(roots / "code-llama-3m")
    assert model(settings, "upload:mine") == str(settings.uploads / "mine")
    listed = dataclasses.replace(settings, hub_ids=frozenset({"org/name"}))
    assert model(listed, "org/name") == "org/name"


@pytest.mark.parametrize(
    "name", ["/etc", "../data", "code-llama-3m/../../data", "org/name", "", "~", "nowhere", "."]
)
def test_everything_else_is_refused_alike(settings, name):
    (settings.data / "secret").mkdir(parents=True)
    with pytest.raises(UsageError, match="not on the list"):
        model(settings, name)


def test_links_out_of_a_model_are_refused(settings, roots, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    (roots / "code-llama-3m" / "vocab.txt").symlink_to(secret)
    with pytest.raises(UsageError, match="a link out of its folder"):
        model(settings, "code-llama-3m")
    (roots / "away").symlink_to(tmp_path / "data")
    with pytest.raises(UsageError, match="not on the list"):
        model(settings, "away")
    (roots / "note.txt").symlink_to(secret)
    with pytest.raises(UsageError, match="not on the list"):
        resolve(settings, "tune", spec={"calibration": {"calibration": "note.txt"}})


@pytest.mark.parametrize("name", ["../x", "a/b", "", "A", ".hidden", "x" * 65])
def test_an_upload_has_a_plain_name(settings, name):
    with pytest.raises(UsageError, match="invalid upload name"):
        model(settings, f"upload:{name}")


def test_an_upload_that_is_not_there_is_named(settings):
    with pytest.raises(NotFoundError, match="'nowhere'"):
        model(settings, "upload:nowhere")


def test_calibration_files_too_are_below_a_root(settings, roots):
    found = resolve(settings, "tune", spec={"calibration": {"calibration": "text.txt"}})
    assert found["calibration"]["calibration"] == str(roots / "text.txt")
    for name in ("/etc/passwd", "../latency.sqlite"):
        with pytest.raises(UsageError, match=r"calibration .* not on the list"):
            resolve(settings, "tune", spec={"calibration": {"calibration": name}})
