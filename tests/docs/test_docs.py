"""Every command in README and docs runs, in the order in which a reader meets them."""

import re
import shlex

import click
import pytest

from autotune.cli.main import cli as cli_group
from tests.docs.pages import ROOT, folder, run_page

__all__ = ["folder"]
PAGES = ["README.md", "docs/howto.md", "docs/predictor.md"]


@pytest.mark.docs
@pytest.mark.duration(330)
@pytest.mark.timeout(1800)  # a page is one test
@pytest.mark.parametrize("page", PAGES)
def test_what_the_page_shows_runs(page, folder, cli):
    run_page(page, folder, cli)


@pytest.mark.docs
def test_what_the_page_of_devices_shows_runs(folder, cli):
    (table,) = re.findall(
        r"```\n(tokens,.*?)```", (ROOT / "docs/devices.md").read_text(), re.DOTALL
    )
    (folder / "points.csv").write_text(table)
    run_page("docs/devices.md", folder, cli)


def test_commands_of_the_deployment_page_have_the_options_they_use():
    text = (ROOT / "docs" / "deployment.md").read_text()
    lines = re.findall(r"bin/(autotune .*)|`(autotune .*?)`", text)
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line[0] or line[1])[1:]
        found = cli_group
        while isinstance(found, click.Group):
            found = found.get_command(click.Context(found), words.pop(0))
        assert found is not None, line
        known = {option for param in found.params for option in param.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize(
    "page",
    [
        *PAGES,
        "docs/devices.md",
        "docs/quality.md",
        "docs/structure.md",
        "docs/deployment.md",
        "docs/scaling.md",
        "docs/options.md",
        "docs/extending.md",
        "docs/methods/README.md",
        "CHANGELOG.md",
    ],
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_every_part_has_its_place_on_a_method_card():
    from autotune.compress.factorizers import FACTORIZERS
    from autotune.compress.metrics import METRICS
    from autotune.compress.storage_layouts import STORAGES
    from autotune.search.allocators import ALLOCATORS

    cards = {path.name: path.read_text() for path in (ROOT / "docs" / "methods").glob("*.md")}
    index = cards.pop("README.md")
    for name in (*METRICS, *FACTORIZERS, *ALLOCATORS, *(s for s in STORAGES if s == "remap8")):
        assert f"`{name}`" in index, name
        assert any(f"`{name}`" in card for card in cards.values()), name
