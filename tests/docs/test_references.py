"""Pages and files that the code refers to are in the repository."""

import re

from tests.docs.pages import ROOT

ROOMS = (
    "autotune",
    "benchmarks",
    "compress",
    "devices",
    "predictor",
    "profiler",
    "search",
    "tests",
)
PAGE = re.compile(
    r"(?<![\w/.<-])((?:docs|benchmarks/results)/[\w/.-]+\.md|\w+\.md)(?= §| section)?"
)
WRITTEN = {"README.md", "CHANGELOG.md", "card.md", "X.md", "artefacts.md"}  # or made by the program


def test_every_page_that_is_named_exists():
    missing = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for name in PAGE.findall(path.read_text()):
                found = [ROOT / name, ROOT / "docs" / name, path.parent / name]
                if name not in WRITTEN and not any(each.exists() for each in found):
                    missing.add(f"{path.relative_to(ROOT)}: {name}")
    assert not missing
