"""Help texts, messages, pages and templates avoid the words that docs/terms.md replaces."""

import ast
import re
from collections.abc import Iterator

import click
import pytest

from autotune.cli.main import cli as cli_group
from tests.docs.pages import ROOT

TERMS = ROOT / "docs" / "terms.md"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
TEMPLATES = sorted(
    path
    for package in ("service", "report")
    for folder in ("templates", "static")
    for path in (ROOT / "autotune" / package / folder).glob("*")
    if path.suffix in (".html", ".md", ".js") and path.is_file()
)

SOURCES = sorted(
    path
    for room in ("autotune", "profiler", "predictor", "search", "compress", "devices")
    for path in (ROOT / room).rglob("*.py")
)


def banned() -> dict[re.Pattern[str], str]:
    """Pattern -> what to write instead, as the glossary lists them."""
    block = TERMS.read_text().partition("## Words not to use")[2].split("```")[1]
    lines = [line.partition(" -> ") for line in block.splitlines() if " -> " in line]
    return {re.compile(pattern, re.IGNORECASE): instead for pattern, _, instead in lines}


def prose(text: str) -> str:
    """Markdown without code, tags of diagrams and addresses of links."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)


def shown(text: str) -> str:
    """What a template shows: no code of Jinja, no tags, but the attributes that are read aloud."""
    read = " ".join(re.findall(r'(?:aria-label|placeholder|title|alt)="([^"]*)"', text))
    return re.sub(r"{[{%].*?[%}]}|<[^>]*>", " ", text, flags=re.DOTALL) + read


def script(text: str) -> str:
    """The messages of a script: its texts of more than one word."""
    return "\n".join(re.findall(r'["`]([^"`\n]* [^"`\n]*)["`]', text))


def commands(
    command: click.Command, context: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, click.Context(found, info_name=name, parent=context))


def helps() -> list[tuple[str, str]]:
    root = click.Context(cli_group, info_name="autotune")
    return [(path, found.get_help(context)) for path, found, context in commands(cli_group, root)]


def strings(source: str) -> list[str]:
    """String constants of two words or more, parts of f-strings among them.

    Docstrings and comments of HTML, which mark places in files, are left out.
    """
    tree = ast.parse(source)
    skipped = docstrings(tree)
    found = [
        re.sub(r"<!--.*?-->", "", node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped
    ]
    return [text for text in found if " " in text]


def docstrings(tree: ast.Module) -> set[ast.AST]:
    """Nodes of strings that stand alone, as docstrings do."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def mistakes(text: str) -> list[str]:
    return [
        f"{match.group()!r}: write {instead}"
        for pattern, instead in banned().items()
        for match in pattern.finditer(text)
    ]


def test_the_glossary_bans_words_and_the_test_finds_them():
    assert len(banned()) > 10
    assert mistakes("the head of a farm")
    assert mistakes("prefill\nArtefacts")
    assert not mistakes("a coordinator, a build, the newest job")
    assert prose("`/artefacts` and ```\nartefact\n``` [x](artefacts.md)").split() == ["and", "[x"]
    assert shown('<a href="/artefacts" aria-label="All">{{ artefacts }} files</a>').split() == [
        "files",
        "All",
    ]


def test_help_of_every_command():
    found = helps()
    assert {"autotune tune", "autotune db merge", "autotune submit tune"} <= {p for p, _ in found}
    for path, text in found:
        words = re.sub(r"--?[\w-]+", " ", re.sub(r"\s+", " ", text))
        assert not mistakes(words), path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages(page):
    assert not mistakes(prose(page.read_text()))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_templates(path):
    text = path.read_text()
    assert not mistakes(script(text) if path.suffix == ".js" else shown(text))


def test_the_strings_of_a_module_are_found_without_its_docstrings():
    source = '"""A module."""\nraise UsageError(f"{a} has no head, " "say so")\nx = "a b"\ny = "b"'
    assert strings(source) == ["a b", " has no head, say so"]


def test_strings():
    assert len(SOURCES) > 300
    wrong = {
        f"{path.relative_to(ROOT)}: {text!r}": found
        for path in SOURCES
        for text in strings(path.read_text())
        if (found := mistakes(text))
    }
    assert not wrong


def test_readme_and_structure_link_to_the_glossary():
    assert "docs/terms.md" in (ROOT / "README.md").read_text()
    assert "terms.md" in (ROOT / "docs" / "structure.md").read_text()
