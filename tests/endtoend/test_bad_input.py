"""Bad input ends in one clear sentence, the right exit code and nothing lost."""

import os
import shutil
import sqlite3
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import LLAMA

pytestmark = pytest.mark.duration(40)
BASE = (
    "--batch-size",
    1,
    "--isl",
    64,
    "--trials",
    0,
    "--rounds",
    1,
    "--calibration-samples",
    8,
    "--sensitivity-rounds",
    0,
)


PREDICT = ("predict", "--tokens", 128, "--shape", "384x1536")


def refuse(done, code, *says):
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    for text in says:
        assert text in sentence
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ((), 2, ["no budget given", "--latency-budget"]),
        (("--latency-budget", "20"), 2, ["'20' is not a limit on the latency"]),
        (("--latency-budget", "1e400ms"), 2, ["not a limit on the latency"]),
        (("--latency-budget", "-5ms"), 2, ["not a limit on the latency"]),
        (("--latency-budget", "nanms"), 2, ["not a limit on the latency"]),
        (("--latency-budget", "0.8x", "--model", "./nowhere"), 2, ["does not exist"]),
        (("--latency-budget", "0.8x", "--device", "h20"), 2, ["did you mean"]),
        (("--latency-budget", "0.8x", "--device", "a100-pcie"), 4, ["not on this machine"]),
        (("--latency-budget", "0.8x", "--device", "t4"), 4, ["not on this machine"]),
        (("--latency-budget", "0.8x", "--backend", "magic"), 2, ["unknown backend"]),
        (("--latency-budget", "0.8x", "--metric", "magic"), 2, ["unknown metric"]),
        (("--latency-budget", "0.8x", "--allocator", "magic"), 2, ["unknown allocator", "erc-plc"]),
        (("--latency-budget", "0.8x", "--factorizer", "magic"), 2, ["unknown factorizer", "als"]),
        (("--activation-budget", "1x"), 2, ["alone leaves nothing to choose"]),
        (("--latency-budget", "0.8x", "--storage", "int3"), 2, ["--storage", "int3", "remap8"]),
        (
            ("--latency-budget", "0.8x", "--factorizer", "output-subspace"),
            2,
            ["--metric activation"],
        ),
        (
            ("--latency-budget", "0.8x", "--allocator", "exact+optuna"),
            2,
            ["--allocator exact+optuna needs --trials of 1 or more"],
        ),
        (("--latency-budget", "0.8x", "--sensitivity-rounds", "9"), 2, ["0 to 3"]),
        (("--latency-budget", "0.8x", "--threads", "999"), 2, ["--threads must be 1 to"]),
        (("--latency-budget", "0.8x", "--batch-size", "0"), 2, ["--batch-size must be 1 or more"]),
        (
            ("--latency-budget", "0.8x", "--trials", "-1"),
            2,
            ["--trials must be 0 to 100000, got -1"],
        ),
        (
            ("--latency-budget", "0.8x", "--calibration", "gone.txt"),
            2,
            ["gone.txt", "No such file"],
        ),
    ],
)
def test_wrong_values(cli, tmp_path, args, code, says):
    done = cli("tune", *BASE, *args, "--output", tmp_path / "out", cwd=tmp_path)
    refuse(done, code, *says)
    assert not (tmp_path / "out" / "result.json").exists()


def test_nan_weights(cli, tmp_path):
    shutil.copytree(LLAMA, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[3]
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    done = cli("--model", tmp_path / "model", "--latency-budget", "0.9x", "-o", tmp_path / "out")
    refuse(done, 2, name, "NaN")


def test_calibration_text_of_one_token(cli, tmp_path):
    (tmp_path / "one.txt").write_text("x")
    done = cli(
        "--model",
        LLAMA,
        *BASE,
        "--latency-budget",
        "0.9x",
        "--calibration",
        tmp_path / "one.txt",
        "--output",
        tmp_path / "out",
    )
    refuse(done, 2, "has 1 token,", "at least 8 are needed")


@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"), reason="root writes anywhere"
)
def test_a_read_only_output_folder(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    folder.chmod(0o555)
    command = [sys.executable, "-m", "autotune", "--latency-budget", "0.9x", "-o", str(folder)]
    if os.geteuid() == 0:
        # Root may write to read-only folders; give that power up.
        command = [
            "setpriv",
            "--bounding-set=-dac_override,-dac_read_search",
            "--inh-caps=-dac_override,-dac_read_search",
            *command,
        ]
    done = subprocess.run(command, capture_output=True, text=True)
    refuse(done, 2, "cannot write", "--output")


def test_a_corrupted_or_newer_database(cli, tmp_path):
    (tmp_path / "bad.sqlite").write_bytes(b"nonsense" * 1000)
    args = ("--latency-budget", "0.9x", "-o", tmp_path / "out", "--db")
    refuse(cli(*args, tmp_path / "bad.sqlite"), 2, "damaged or no latency database")
    with sqlite3.connect(tmp_path / "new.sqlite") as raw:
        raw.execute("PRAGMA user_version = 12")
    refuse(cli(*args, tmp_path / "new.sqlite"), 2, "schema version 12", "upgrade")
    assert (tmp_path / "bad.sqlite").read_bytes() == b"nonsense" * 1000


@pytest.mark.faults
def test_a_full_disk(cli, tmp_path):
    """The system refuses to write more than 2 MB to any file: nothing half-written stays."""
    (tmp_path / "text.txt").write_text((LLAMA / "heldout.txt").read_text()[:20_000])
    args = (
        "--model",
        LLAMA,
        *BASE,
        "--calibration",
        tmp_path / "text.txt",
        "-o",
        tmp_path / "out",
        "--latency-budget",
        "0.95x",
    )
    done = cli(*args, file_bytes=2_000_000)
    refuse(done, 2, "no space left", "continues where it stopped")
    assert not list((tmp_path / "out").rglob(".*.part"))
    assert not (tmp_path / "out" / "result.json").exists()


def test_two_runs_on_one_folder(cli, tmp_path):
    from autotune.core.runfolder import RunFolder

    with RunFolder(tmp_path / "out"):
        done = cli("--latency-budget", "0.9x", "--output", tmp_path / "out")
    refuse(done, 75, "in use by another autotune process")


def test_unknown_options_and_commands(cli):
    done = cli("--no-such-option")
    assert done.returncode == 2
    assert "No such option" in done.stderr
    done = cli("no-such-command")
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ((), "give a file, --device NAME, or both"),
        (("t.csv",), "t.csv does not exist"),
        (("t.csv", "--device", "a100"), "t.csv cannot be read"),
        (("--device", "abacus"), "--device: unknown device 'abacus'"),
    ],
)
def test_an_import_takes_a_file_or_a_device(cli, args, problem):
    refuse(cli("db", "import", *args), 2, problem)


@pytest.mark.parametrize("name", ["/proc/out", "/proc/new/out", "file", "file/out", "n" * 300])
def test_an_output_that_cannot_be_written(cli, tmp_path, name):
    (tmp_path / "file").write_text("kept")
    done = cli(*BASE, "--model", LLAMA, "--latency-budget", "0.9x", "-o", name, cwd=tmp_path)
    refuse(done, 2, "cannot write", "--output")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--device", "a100", "--rank", 98, "--rank", 97), ["98 cannot be priced", "multiple"]),
        (("--form", "rank=96:bogus"), ["--form", "rank=96:bogus", "has no implementation of it"]),
        (("--rank", 96), ["nothing measured is near", "dense", "autotune profile"]),
    ],
)
def test_a_layer_that_cannot_be_priced(cli, more, says):
    refuse(cli(*PREDICT, *more), 2, *says)


@pytest.mark.parametrize(
    "command", [PREDICT, ("db", "info"), ("db", "verify"), ("db", "forget", "--tokens", 1)]
)
def test_a_mistyped_database_is_not_made(cli, tmp_path, command):
    missing = tmp_path / "typo.sqlite"
    refuse(cli(*command, "--db", missing), 2, "--db", str(missing), "does not exist")
    assert list(tmp_path.glob("typo*")) == []


def test_a_service_that_is_not_there_may_be_there_later(cli):
    refuse(cli("jobs", "--server", "http://127.0.0.1:9"), 75, "does not answer")
