"""The distribution of somebody else that docs/extending.md shows, and parts of it that fail.

`install(folder)` writes what `pip install` would leave in a folder of the search path.
"""

import re
import tomllib

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
NAME = "third-party"
FAILS = """
class Fails:
    def __init__(self):
        raise RuntimeError("no licence")
"""
# Beside what the page shows: a name of this package, a module that is not there, a class that
# fails, and a name that could not be written on a command line.
MORE = {
    "autotune.metrics": {
        "kfac": "third_party.metric:DepthWeighted",
        "broken": "third_party.gone:Broken",
        "fails": "third_party.fails:Fails",
        "no:name": "third_party.metric:DepthWeighted",
    }
}


def shown(language):
    """The code blocks of the page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def modules():
    """File name → text of every file of the distribution, as the page shows them."""
    found = {}
    for text in shown("python"):
        title, _, rest = text.partition("\n")
        found[re.fullmatch(r"# third_party/(\w+\.py)", title)[1]] = rest
    return found


def entry_points():
    """Group → name → `module:Class`, as the page shows them."""
    (text,) = shown("toml")
    return tomllib.loads(text)["project"]["entry-points"]


def written(groups):
    """Entry points as the file of an installed distribution has them."""
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items()), ""]
    return "\n".join(lines)


def install(folder, name=NAME, groups=None):
    """Write the distribution to a folder."""
    package = folder / "third_party"
    package.mkdir(parents=True, exist_ok=True)
    for file, text in {"__init__.py": "", "fails.py": FAILS, **modules()}.items():
        (package / file).write_text(text)
    if groups is None:
        groups = entry_points()
        groups = groups | {g: groups.get(g, {}) | more for g, more in MORE.items()}
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(written(groups))
    return folder
