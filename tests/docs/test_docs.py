"""Every command in README and docs runs, in the order in which a reader meets them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "docs/howto.md", "docs/predictor.md"]
BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.DOTALL)


def blocks(page):
    return BLOCK.findall((ROOT / page).read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the reader stands: the example model beside, results of earlier pages kept.

    The example text is cut short, for time.
    """
    path = tmp_path_factory.mktemp("docs")
    model = path / "tests" / "data" / "code-llama-3m"
    model.mkdir(parents=True)
    for file in (ROOT / "tests" / "data" / "code-llama-3m").iterdir():
        if file.name == "heldout.txt":
            (model / file.name).write_text(file.read_text()[:40_000])
        else:
            (model / file.name).symlink_to(file)
    return path


@pytest.mark.parametrize("page", PAGES)
def test_what_the_page_shows_runs(page, folder, cli):
    environment = os.environ | {"AUTOTUNE_DB": str(folder / "latency.sqlite")}
    found = blocks(page)
    assert found
    for language, text in found:
        if language == "python":
            commands = [[sys.executable, "-c", text]]
        else:
            commands = [
                shlex.split(line[2:]) for line in text.splitlines() if line.startswith("$ ")
            ]
        for command in commands:
            if command[0] == "make":
                assert f"\n{command[1]}:" in (ROOT / "Makefile").read_text()
                continue  # CI runs these two
            if command[0] == "autotune":
                done = cli(*command[1:], cwd=folder, env=environment)
            else:
                done = subprocess.run(
                    command, cwd=folder, env=environment, capture_output=True, text=True,
                    timeout=600,
                )  # fmt: skip
            # A timing may miss its budget, or be slower than dense; nothing else may go wrong.
            # ... and a busy machine is told of, which is no mistake of the page's.
            told = any(name in command for name in ("doctor", "bench", "drift", "verify"))
            tunes = told or any(part.endswith("-budget") for part in command)
            assert done.returncode in ((0, 1) if tunes else (0,)), (command, done.stderr)
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "page", [*PAGES, "docs/structure.md", "docs/methods/README.md", "CHANGELOG.md"]
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_every_part_has_its_place_on_a_method_card():
    from autotune.compress.factorizers import FACTORIZERS
    from autotune.compress.metrics import METRICS
    from autotune.compress.precision import STORAGES
    from autotune.search.allocators import ALLOCATORS

    cards = {path.name: path.read_text() for path in (ROOT / "docs" / "methods").glob("*.md")}
    index = cards.pop("README.md")
    for name in (*METRICS, *FACTORIZERS, *ALLOCATORS, *(s for s in STORAGES if s == "remap8")):
        assert f"`{name}`" in index, name
        assert any(f"`{name}`" in card for card in cards.values()), name
