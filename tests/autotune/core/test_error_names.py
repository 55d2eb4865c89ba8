"""No level below the command line words an error for it: options are named by `option_name`."""

import ast
import os
import re
from pathlib import Path

import autotune

ROOT = Path(autotune.__file__).parent
# Read by users of the command line alone.
OF_THE_COMMAND_LINE = ("cli", "service/commands", "service/client.py", "__main__.py")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def modules():
    for folder, _, files in os.walk(ROOT, followlinks=True):
        for file in files:
            path = Path(folder) / file
            name = path.relative_to(ROOT).as_posix()
            if path.suffix == ".py" and not name.startswith(OF_THE_COMMAND_LINE):
                yield path


def texts(tree):
    """The text of every message that is raised, and of every constant that may go into one."""
    for node in ast.walk(tree):
        constant = isinstance(node, ast.Assign) and "ADVICE" in ast.unparse(node.targets[0])
        if isinstance(node, ast.Raise) or constant:
            parts = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
            yield node.lineno, "".join(part for part in parts if isinstance(part, str))


def test_no_message_spells_a_flag():
    found, seen = [], 0
    for path in modules():
        for line, text in texts(ast.parse(path.read_text())):
            seen += 1
            # A whole command to run, in backticks, is the same for everybody.
            if FLAG.search(re.sub(r"`[^`]*`", "", text)):
                found.append(f"{path}:{line}: {text}")
    assert seen > 300
    assert found == []
