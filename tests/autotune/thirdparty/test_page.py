"""docs/extending.md counts the lines that it shows, and its diff of an option applies and works."""

import json
import os
import re
import shutil
import subprocess
import sys

from tests.autotune.thirdparty.distribution import PAGE, entry_points, modules, shown
from tests.docs.pages import ROOT

COPIED = ("autotune", "compress", "devices", "predictor", "profiler", "search", "docs")
# Everywhere an option shows, asked in the copy.
ASK = """
import json
from click.testing import CliRunner
import autotune
from autotune.api import make_request
from autotune.cli.main import cli
from autotune.cli.reference import page
from autotune.core.workload import Budget
from autotune.service.specs import spec_model

budget = Budget(parameters="0.9x")
refused = CliRunner().invoke(cli, ["tune", "--params-budget", "0.9x", "--healing-steps", "-1"])
schema = spec_model("tune").model_json_schema()
print(json.dumps({
    "file": autotune.__file__,
    "help": CliRunner().invoke(cli, ["tune", "--help"]).output,
    "refused": refused.output + str(refused.exception),
    "api": make_request(budget=budget, flat={"healing_steps": 200}).search.healing_steps,
    "default": make_request(budget=budget).search.healing_steps,
    "http": schema["$defs"]["SearchOptions"]["properties"]["healing_steps"],
    "page": page(),
}))
"""


def rows():
    """Part → (file, lines) of the table."""
    found = re.findall(r"^\| (\w+) \| `([\w./]+)` \| ([\d +]+) \|$", PAGE, re.MULTILINE)
    return {part: (file, count) for part, file, count in found}


def test_the_table_counts_the_lines_that_are_shown():
    table = rows()
    (diff,) = shown("diff")
    added = [line for line in diff.splitlines() if re.match(r"\+(?!\+\+)", line)]
    assert table.pop("option") == (re.search(r"\+\+\+ b/(.*)", diff)[1], str(len(added)))
    points = entry_points()
    assert len(table) == len(points) == 5
    for part, (file, count) in table.items():
        lines = [line for line in modules()[file.partition("/")[2]].splitlines() if line.strip()]
        registered = points[f"autotune.{part}s"]
        assert [target.partition(":")[0] for target in registered.values()] == [
            file.removesuffix(".py").replace("/", ".")
        ]
        assert count == f"{len(lines)} + {len(registered)}"


def test_the_diff_of_an_option_adds_it_everywhere(tmp_path):
    for name in COPIED:
        # The rooms are links at their places in autotune/; they stay links in the copy.
        ignored = shutil.ignore_patterns("__pycache__", "*.png")
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=ignored)
    (diff,) = shown("diff")
    command = ["patch", "--strip=1", "--batch", "--fuzz=0"]
    subprocess.run(command, input=diff, text=True, cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["file"].startswith(str(tmp_path))
    assert "--healing-steps N" in found["help"]
    assert "healing_steps must be 0 to 10000, got -1" in found["refused"]
    assert (found["api"], found["default"]) == (200, 0)
    assert found["http"]["minimum"] == 0
    assert found["http"]["maximum"] == 10_000
    assert "Steps of healing" in found["http"]["description"]
    before = (ROOT / "docs" / "options.md").read_text().splitlines()
    (row,) = set(found["page"].splitlines()) - set(before)
    assert row.startswith("| `--healing-steps` | `search.healing_steps` | `healing_steps` |")
