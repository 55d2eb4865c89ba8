"""Commands around a tuning, which need none."""

import json
from pathlib import Path


def test_bench_needs_a_finished_run(cli, tmp_path):
    done = cli("bench", tmp_path)
    assert done.returncode == 2
    assert "has no result.json" in done.stderr
    (tmp_path / "result.json").write_text('{"schema_version": 99}')
    done = cli("bench", tmp_path)
    assert done.returncode == 2
    assert "schema version 99" in done.stderr


def test_the_small_commands(cli, tmp_path):
    database, other = (("--db", tmp_path / name) for name in ("small.sqlite", "n.sqlite"))
    shape = ("--tokens", 32, "--shape", "64x128")
    done = cli("predict", *shape)
    assert done.returncode == 2
    assert "autotune profile --tokens 32 --shape 64x128" in done.stderr
    done = cli("profile", *shape, *database, "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["measured"] == found["wanted"] == 3
    done = cli("profile", *shape, *database)  # a busy machine may leave some to be measured again
    open_points = 3 - found["settled"]
    assert f"{open_points} measured, {found['settled']} already known" in done.stdout
    done = cli("profile", "--tokens", 32, *database)
    assert done.returncode == 2
    assert "or --for, or --plan quick" in done.stderr
    done = cli("predict", *shape, "--rank", 16, *database, "--format", "json")
    answers = json.loads(done.stdout.splitlines()[-1])["estimates"]
    assert {a["source"] for a in answers} <= {"measured", "unsettled"}
    assert [(a["rank"], a["form"]) for a in answers] == [(None, "dense"), (16, "rank=16")]
    done = cli("predict", *shape, "--form", "rank=16", *database, "--format", "json")
    assert json.loads(done.stdout.splitlines()[-1])["estimates"] == answers
    pivoted = (*shape, "--form", "rank=16:pivoted", "--db", tmp_path / "pivoted.sqlite")
    assert "2 measured" in cli("profile", *pivoted).stdout
    done = cli("profile", *shape, "--form", "rank=16:pivoted:int8-static", *database)
    assert done.returncode == 2
    assert "onnxruntime-cpu has no implementation of it" in done.stderr
    done = cli("predict", *shape, "--form", "16", *database)
    assert done.returncode == 2
    assert "is not a form" in done.stderr
    done = cli("devices", "--format", "json")
    found = json.loads(done.stdout.splitlines()[-1])
    assert "cpu" in found["here"]
    assert found["predicted_from"]["h200-sxm"] == "this project's database"
    assert found["predicted_from"]["a100-sxm"] == "third-party measurements"
    sheet = cli("devices", "show", "h200").stdout
    assert "bandwidth_bytes_s = 4.8e12" in sheet
    assert "[sources]" in sheet
    done = cli("db", "info", *database, "--format", "json")
    assert json.loads(done.stdout.splitlines()[-1])["fingerprints"][0]["points"] == 3
    assert cli("db", "export", tmp_path / "t.parquet", *database).returncode == 0
    assert cli("db", "import", tmp_path / "t.parquet", *other).returncode == 0
    assert cli("db", "merge", tmp_path / "n.sqlite", *database).returncode == 0
    assert cli("db", "ship", tmp_path / "shipped.sqlite", *database).returncode == 0
    assert cli("db", "merge", tmp_path / "shipped.sqlite", *other).returncode == 0
    done = cli("db", "verify", *database)
    assert done.returncode == 0
    assert "every hash matches" in done.stdout
    assert Path(tmp_path / "t.parquet").is_file()
