"""All attacks of benchmarks/abuse.py, in small: nothing is lost, and nothing is the server's fault.

How long others wait is for the benchmark, on a machine that does nothing else.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.attacks import ATTACKS

pytestmark = [pytest.mark.slow, pytest.mark.duration(120)]
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "abuse.py"


def test_a_small_abuse_loses_nothing():
    bounds = ("--seconds", "4", "--jobs", "40", "--schemathesis", "1")
    done = subprocess.run([sys.executable, SCRIPT, *bounds], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert {row["attack"] for row in record["rows"]} == {*ATTACKS, "schemathesis"}
    assert record["lost"] == []
    assert record["server_errors"] == 0
    outcomes = {row["attack"]: row["outcome"] for row in record["rows"]}
    assert outcomes["endless-head"]["MB taken"] < 50
    assert "401" in outcomes["without-a-key"]
    assert outcomes["jobs"].get("201", 0) > 0
    assert outcomes["streams"].get("200", 0) <= 100
