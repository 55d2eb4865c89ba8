"""No room reaches a higher one by a string, which the import contract cannot see."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOTTED = re.compile(r"autotune\.([a-z_]+)((\.[a-z_]+)*(:[a-zA-Z_]+)?)")
# The command line is one tree; its commands about a service live with the service and are imported
# when they are run.
ALLOWED = {("cli", "service")}


def layers():
    """Rooms by the number of their layer, the lowest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = next(c for c in settings["tool"]["importlinter"]["contracts"] if "layers" in c)
    names = reversed([re.split(r"\s*[|:]\s*", layer) for layer in contract["layers"]])
    return {room: number for number, rooms in enumerate(names) for room in rooms}


def strings(path):
    """String constants of a file that are not docstrings."""
    tree = ast.parse(path.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_no_room_names_a_module_of_a_higher_one():
    height, found = layers(), set()
    assert {"core", "profiler", "compress", "tuning", "service"} <= set(height)
    for room in height:
        for path in (ROOT / "autotune" / room).rglob("*.py"):
            for text in strings(path):
                match = DOTTED.fullmatch(text)
                other = match and match[1]
                upwards = other in height and height[other] > height[room]
                if upwards and (room, other) not in ALLOWED:
                    found.add(f"{path.relative_to(ROOT)}: {text}")
    assert found == set()


def test_such_a_name_is_found():
    match = DOTTED.fullmatch("autotune.compress.checkpoint:load_for_timing")
    assert match and layers()[match[1]] > layers()["profiler"]
