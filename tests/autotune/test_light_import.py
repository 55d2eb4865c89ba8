"""Importing the package and asking for help stay light."""

import subprocess
import sys

import pytest

from autotune.profiler.database.latency import LatencyDatabase

HEAVY = (
    "torch",
    "transformers",
    "onnxruntime",
    "sklearn",
    "scipy",
    "pandas",
    "matplotlib",
    "sqlalchemy",
)


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()) if done.stdout.strip() else set()


def test_import_loads_nothing_heavy():
    assert loaded_after("import autotune; autotune.Budget(latency='20ms')") == set()


@pytest.mark.parametrize(
    "args",
    [[], ["tune"], ["devices"], ["profile"], ["predict"], ["db"], ["db", "info"], ["bench"]],
)
def test_every_help_is_light_and_has_an_example(args, cli):
    done = cli(*args, "--help")
    assert done.returncode == 0
    assert "Example: autotune" in done.stdout
    code = (
        f"from autotune.cli.main import cli\ncli.main({[*args, '--help']!r}, standalone_mode=False)"
    )
    assert loaded_after(code) == set()


def test_a_shipped_device_is_predicted_without_heavy_libraries(private_database):
    """Also beside a database of the user's that holds other devices."""
    LatencyDatabase(private_database).close()
    asked = ["predict", "--device", "h200", "--tokens", "2048", "--shape", "4096x4096"]
    code = (
        "from autotune.cli.main import cli\n"
        f"cli.main({[*asked, '--rank', '1024']!r}, standalone_mode=False)"
    )
    assert loaded_after(code) == set()


def test_products_that_others_timed_are_looked_up_without_scikit_learn(private_database):
    code = (
        "from autotune.cli.main import cli\n"
        "asked = ['--tokens', '2048', '--shape', '4096x4096', '--rank', '1024']\n"
        "cli.main(['predict', '--device', 'a100', *asked], standalone_mode=False)"
    )
    assert loaded_after(code) == {"pandas"}


def test_the_measuring_process_imports_what_its_backend_needs():
    """onnxruntime is timed without torch beside it, also where checkpoints can be opened."""
    serve = (
        "import io, json\n"
        "from autotune.farm.measuring_process import load_network\n"
        "from autotune.profiler.measure.worker import main\n"
        "request = {'backend': 'onnxruntime-cpu', 'device': 'cpu', 'threads': 1, 'tasks': []}\n"
        "main(io.StringIO(json.dumps(request)), io.StringIO(), loader=load_network)"
    )
    assert not loaded_after(serve) & {"torch", "transformers", "sklearn", "sqlalchemy"}
