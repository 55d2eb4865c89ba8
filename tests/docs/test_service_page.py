"""Every command of the service's page runs, on a server and a farm of its own."""

import pytest

from tests.docs.pages import folder, run_page

pytestmark = [pytest.mark.docs, pytest.mark.duration(100), pytest.mark.timeout(1800)]

__all__ = ["folder"]


def test_what_the_page_shows_runs(folder, cli):
    run_page("docs/service.md", folder, cli)
