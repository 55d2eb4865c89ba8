"""Count what the structure of the code is made of, in two trees: `structure.py BEFORE AFTER`.

Uses the standard library alone and imports nothing of either tree. Prints a Markdown table and, as
its last line, one JSON document. The measures are those of the review of commit 2a6778f:

- Levels: longest chain of imports between the modules and packages directly in `autotune/`
  (the linked rooms among them); imports inside functions and those for types count as well.
- Parameters: `self` and `cls` are not counted, nor are `*args` and `**kwargs`.
- Subscripts of results: string literals in brackets behind a `record`, `result`, `site` or
  `quality`, every level of `record["sizes"]["dense"]` by itself, outside `autotune/results`.
- Public: functions, methods, classes and modules no part of whose name starts with an underscore.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOMS = ("devices", "profiler", "predictor", "compress", "search")
RESULT_NAMES = {"record", "result", "site", "quality"}
MEANINGLESS = {"__init__.py", "__main__.py"}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source file: its dotted name inside `autotune`, its text and its syntax tree."""

    path: Path
    module: tuple[str, ...]
    text: str
    tree: ast.Module

    @property
    def node(self) -> str:
        """The module or package directly in `autotune/` that the file belongs to."""
        return self.module[0] if self.module else "__init__"


def read_sources(root: Path) -> list[Source]:
    """All sources below `autotune/` and the rooms; links are followed once, under one name."""
    found = []
    for top in ("autotune", *ROOMS):
        for path in sorted((root / top).rglob("*.py")):
            relative = path.relative_to(root)
            parts = relative.with_suffix("").parts
            if top == "autotune":
                parts = parts[1:]
                if parts[0] in ROOMS:
                    continue
            if parts[-1] == "__init__":
                parts = parts[:-1]
            text = path.read_text()
            source = Source(path=relative, module=parts, text=text, tree=ast.parse(text))
            found.append(source)
    return found


def imports(source: Source, nodes: set[str]) -> set[str]:
    """The nodes of `autotune/` that a file imports anywhere, for types too."""
    names: list[str] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names]
    inside = [one[1] for one in parts if one[0] == "autotune" and len(one) > 1]
    return {one if one in nodes else "__init__" for one in inside} - {source.node}


def import_graph(sources: list[Source]) -> dict[str, set[str]]:
    """Module or package directly in `autotune/` → those it imports."""
    nodes = {source.node for source in sources}
    graph: dict[str, set[str]] = {node: set() for node in nodes}
    for source in sources:
        graph[source.node] |= imports(source, nodes)
    return graph


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """Node → its level, 1 for those that import nothing.

    Raises ValueError if modules import each other in a circle.
    """
    known: dict[str, int] = {}

    def level(node: str, above: tuple[str, ...] = ()) -> int:
        if node in above:
            raise ValueError(f"imports in a circle: {' -> '.join((*above, node))}")
        if node not in known:
            below = [level(one, (*above, node)) for one in graph[node]]
            known[node] = 1 + max(below, default=0)
        return known[node]

    return {node: level(node) for node in graph}


def functions(sources: list[Source]) -> Iterator[Function]:
    """Every function and method of the sources, nested ones too."""
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, Function):
                yield node


def positional(function: Function) -> list[str]:
    """Names of the parameters that may be given by position, without self and cls."""
    names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def required(function: Function) -> int:
    """How many positional parameters have no default."""
    return max(0, len(positional(function)) - len(function.args.defaults))


def parameter_measures(sources: list[Source]) -> dict[str, object]:
    """Numbers of parameters, and the share that must be given by keyword."""
    found = list(functions(sources))
    places = [len(positional(one)) for one in found]
    keyword = [[arg.arg for arg in one.args.kwonlyargs] for one in found]
    totals = [place + len(names) for place, names in zip(places, keyword, strict=True)]
    with_context = [one for one in found if "context" in (*positional(one), *_keywords(one))]
    return {
        "functions": len(found),
        "functions, >= 5 positional parameters": sum(place >= 5 for place in places),
        "functions, >= 5 positional without a default": sum(required(one) >= 5 for one in found),
        "functions, >= 6 parameters": sum(total >= 6 for total in totals),
        "functions, >= 8 parameters": sum(total >= 8 for total in totals),
        "functions, >= 8 positional parameters": sum(place >= 8 for place in places),
        "keyword-only parameters, %": round(100 * sum(map(len, keyword)) / sum(totals), 1),
        "signatures with `context`": len(with_context),
    }


def _keywords(function: Function) -> list[str]:
    return [arg.arg for arg in function.args.kwonlyargs]


def count_any(sources: list[Source]) -> int:
    """Uses of `typing.Any`, imports not counted."""
    nodes = (node for source in sources for node in ast.walk(source.tree))
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in nodes)


def is_result_subscript(node: ast.AST) -> bool:
    """Whether a node reads a result by a string, as in `record["quality"]`."""
    if not (isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)):
        return False
    if not isinstance(node.slice.value, str):
        return False
    value: ast.expr = node.value
    while isinstance(value, ast.Subscript):
        value = value.value
    if isinstance(value, ast.Call):
        return ast.unparse(value.func) == "read_result"
    name = getattr(value, "id", getattr(value, "attr", None))  # of a variable, or a field
    return name in RESULT_NAMES


def result_subscripts(sources: list[Source]) -> Counter[str]:
    """File → string subscripts of results in it."""
    found: Counter[str] = Counter()
    for source in sources:
        if source.module[:1] != ("results",):
            found[str(source.path)] += sum(map(is_result_subscript, ast.walk(source.tree)))
    return +found


def docstring_measures(sources: list[Source]) -> dict[str, object]:
    """Share of public names with a docstring, and docstrings that are too short to say much."""
    public = documented = short = 0
    words: list[int] = []
    for source in sources:
        for node, name in _named(source.tree, ""):
            text = ast.get_docstring(node)
            hidden = any(part.startswith("_") for part in name.split(".") if part)
            if not hidden and not isinstance(node, ast.Module):
                public += 1
                documented += text is not None
            if text is not None:
                words.append(len(text.split()))
                short += words[-1] <= 4
    return {
        "public functions and classes documented, %": round(100 * documented / public, 1),
        "docstrings of <= 4 words": short,
        "docstrings, median words": statistics.median(words),
    }


def _named(
    node: ast.Module | ast.ClassDef | Function, name: str
) -> Iterator[tuple[ast.Module | ast.ClassDef | Function, str]]:
    """Everything that may carry a docstring, with its dotted name."""
    yield node, name
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, *Documented[2:])):
            yield from _named(child, f"{name}.{child.name}")


def file_measures(sources: list[Source]) -> dict[str, object]:
    """Lengths of files and functions, and names that several files share."""
    lines = [len(source.text.splitlines()) for source in sources]
    lengths = [1 + (one.end_lineno or 0) - one.lineno for one in functions(sources)]
    names: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        if source.path.name not in MEANINGLESS:
            names[source.path.name].append(str(source.path))
    shared = {name: paths for name, paths in names.items() if len(paths) > 1}
    skips = sum(len(re.findall(r"#\s*fmt:\s*skip", source.text)) for source in sources)
    return {
        "source files": len(sources),
        "source lines": sum(lines),
        "lines of a file, median": statistics.median(lines),
        "lines of a file, most": max(lines),
        "files > 300 lines": sum(count > 300 for count in lines),
        "lines of a function, median": statistics.median(lengths),
        "functions > 30 lines": sum(length > 30 for length in lengths),
        "functions > 60 lines": sum(length > 60 for length in lengths),
        "`fmt: skip`": skips,
        "file names used more than once": len(shared),
        "files that share a name": sum(map(len, shared.values())),
        "shared names": ", ".join(f"{one} x{len(shared[one])}" for one in sorted(shared)),
    }


def shape_measures(root: Path, sources: list[Source]) -> dict[str, object]:
    """Modules and packages of `autotune/`, levels of its imports and layers of the contract."""
    graph = import_graph(sources)
    files = {path.stem for path in (root / "autotune").glob("*.py")}
    packages = {one.module[0] for one in sources if one.module} - files
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["type"] == "layers")
    return {
        "files directly in `autotune/`": len(files),
        "packages in `autotune/` (five linked rooms among them)": len(packages),
        "layers of the import contract": len(layers),
        "levels of the import graph": max(levels(graph).values()),
        "arrows of the import graph": sum(map(len, graph.values())),
    }


def measure(root: Path) -> dict[str, object]:
    """All measures of one tree, in the order of the table."""
    sources = read_sources(root)
    subscripts = result_subscripts(sources)
    top = [one for one in sources if one.path.parts[0] == "autotune"]
    return {
        **shape_measures(root, sources),
        **parameter_measures(sources),
        "`Any`": count_any(sources),
        "`Any` in `autotune/` without the rooms": count_any(top),
        "string subscripts of results outside `results/`": sum(subscripts.values()),
        "files with such subscripts": len(subscripts),
        **docstring_measures(sources),
        **file_measures(sources),
    }


def main() -> None:
    """Measure both trees and print them side by side."""
    parser = argparse.ArgumentParser(description="Measures of two trees, side by side.")
    parser.add_argument("before", type=Path, help="Root folder of the older tree.")
    parser.add_argument("after", type=Path, help="Root folder of the newer tree.")
    options = parser.parse_args()
    before, after = measure(options.before), measure(options.after)
    print("| | before | after |\n|---|---|---|")
    for name, value in before.items():
        print(f"| {name} | {value} | {after[name]} |")
    print(json.dumps({"before": before, "after": after}))


if __name__ == "__main__":
    main()
