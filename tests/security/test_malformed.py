"""A malformed model folder is one sentence; no code of it runs and nothing outside is read."""

import os

import pytest

from autotune.compress.loading import load_checkpoint, load_model
from autotune.core.errors import AutotuneError, UsageError
from autotune.core.types import Workload
from autotune.tuning.model import trace_model
from tests.security.malformed import CONFIG, HARMLESS, REFUSED, make

pytestmark = pytest.mark.duration(40)
WORKLOAD = Workload(batch_size=1, sequence_length=32)


def traced(folder):
    return trace_model(load_model(str(folder)), WORKLOAD)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_sentence(tmp_path, name, capfd):
    folder = make(tmp_path / "model", REFUSED[name])
    with pytest.raises(UsageError) as caught:
        traced(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 700
    assert "[y/N]" not in capfd.readouterr().out
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize("name", HARMLESS)
def test_it_is_refused_or_runs(tmp_path, name, capfd):
    folder = make(tmp_path / "model", HARMLESS[name])
    try:
        traced(folder)
    except AutotuneError as error:
        assert "\n" not in str(error)
    assert "[y/N]" not in capfd.readouterr().out
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize("name", [n for n in REFUSED if n.startswith(("config is", "index is"))])
def test_a_checkpoint_is_refused_as_well(tmp_path, name):
    folder = make(tmp_path / "model", REFUSED[name])
    with pytest.raises(UsageError):
        load_checkpoint(folder)


def test_a_file_that_may_not_be_read(tmp_path):
    folder = make(tmp_path / "model", lambda _: None)
    (folder / CONFIG).unlink()
    os.mkfifo(folder / CONFIG)
    with pytest.raises(UsageError, match=r"has no config\.json"):
        traced(folder)
