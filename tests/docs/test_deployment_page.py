"""The systemd unit of the deployment page leaves the service what the program counts on."""

import configparser
import re
from pathlib import Path

import pytest

from autotune.devices import lock
from autotune.service import limits
from autotune.service.commands import serve
from autotune.service.limits import ConnectionLimits
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def service():
    """The section [Service] of the unit."""
    page = (ROOT / "docs" / "deployment.md").read_text()
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(re.search(r"```ini\n(\[Unit\].*?)```", page, re.DOTALL)[1])
    return unit["Service"]


def test_all_jobs_and_the_server_fit_into_the_memory_of_the_unit(service):
    """By default the jobs share a part of it, and the machine keeps some."""
    share = re.fullmatch(r"(\d+)%", service["MemoryMax"])
    assert 100 * serve._MEMORY_SHARE < int(share[1]) < 100
    # The server's figure is of this limit; the one of a single job is its own.
    assert "--max-memory" not in service["ExecStart"]


def test_every_connection_may_have_its_file(service):
    assert int(service["LimitNOFILE"]) >= ConnectionLimits().most + limits._SPARE_FILES


def test_the_locks_are_in_the_folder_that_every_user_of_the_host_takes(service):
    folder = Path("/run") / service["RuntimeDirectory"]
    assert folder == lock._PLACES[0] / "autotune"
    assert service["Environment"] == f"{lock.FOLDER}={folder}"
    assert int(service["RuntimeDirectoryMode"], 8) == lock._FOR_ALL
    # Locks that other users hold do not go with the service.
    assert service["RuntimeDirectoryPreserve"] == "yes"
