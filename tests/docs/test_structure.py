"""docs/structure.md describes the packages and layers that there are."""

import re
import tomllib

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "structure.md").read_text()


def test_every_package_has_a_row():
    packages = {
        path.name
        for path in (ROOT / "autotune").iterdir()
        if path.is_dir() and not path.is_symlink() and path.name != "__pycache__"
    }
    rooms = {path.name for path in (ROOT / "autotune").iterdir() if path.is_symlink()}
    described = set(re.findall(r"^\| `(\w+)/?` \|", PAGE, re.MULTILINE))
    assert packages | rooms <= described


def test_the_layers_are_those_of_the_import_contract():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(len(contract), 0, -1))
    for (_, names), layer in zip(rows, contract, strict=True):
        described = {name for name in re.findall(r"`(\w+)`", names) if _exists(name)}
        assert described == set(re.findall(r"\w+", layer))


def _exists(name):
    return any((ROOT / "autotune" / path).exists() for path in (name, f"{name}.py"))


def test_the_files_that_it_names_exist():
    rooms = "autotune|devices|profiler|predictor|compress|search"
    for path in re.findall(f"`((?:{rooms})/[^` ]+)`", PAGE):
        assert "NAME" in path or (ROOT / path).exists(), path
