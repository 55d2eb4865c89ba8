"""Measurements move between databases, whole."""

import dataclasses
import sqlite3

import pandas as pd
import pytest

from autotune.core.errors import DatabaseError, UsageError
from autotune.core.forms import low_rank
from autotune.profiler.database.audit import find_problems
from autotune.profiler.database.exchange import export_table, import_table, merge, read_table, ship
from autotune.profiler.database.latency import LatencyDatabase
from tests.profiler.points import CLOCKS, DETAIL, FINGERPRINT, point


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_export_and_import_are_exact(database, tmp_path, suffix):
    counted = point(48, energy_j=0.25, power_w=512.3456789012345)
    rows = [point(16), point(32, error="crash, with a comma"), counted]
    database.add(database.start_run(FINGERPRINT, "test"), rows)
    path = tmp_path / f"table{suffix}"
    assert export_table(database, path) == 3
    with LatencyDatabase(tmp_path / "other.sqlite") as other:
        assert import_table(other, path) == 3
        assert other.rows(FINGERPRINT.id) == rows
        assert other.fingerprints() == database.fingerprints()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_forms_are_exported_beside_ranks(database, tmp_path, suffix):
    rows = [point(0), point(16), point(form=low_rank(16, "pivoted", precision="int8-static"))]
    database.add(database.start_run(FINGERPRINT, "test"), rows)
    path = tmp_path / f"table{suffix}"
    export_table(database, path)
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    frame = read(path)
    columns = list(frame.columns)
    assert columns[columns.index("rank") + 1] == "form"
    found = set(zip(frame["kind"], frame["rank"], frame["form"], strict=True))
    assert found == {
        ("linear", 0, "dense"),
        ("linear", 16, "rank=16"),
        ("linear:pivoted:int8-static", 16, "rank=16:pivoted:int8-static"),
    }
    ((_, again),) = read_table(path)
    assert set(again) == set(rows)


def test_files_from_before_energy_was_counted_are_imported(database, tmp_path):
    database.add(database.start_run(FINGERPRINT, "test"), [point(16, energy_j=0.1, power_w=300.0)])
    path = tmp_path / "table.csv"
    export_table(database, path)
    pd.read_csv(path).drop(columns=["energy_j", "power_w"]).to_csv(path, index=False)
    ((_, rows),) = read_table(path)
    assert rows == [point(16)]


def test_files_from_before_there_were_forms_are_imported(database, tmp_path):
    database.add(database.start_run(FINGERPRINT, "test"), [point(0), point(16)])
    path = tmp_path / "table.csv"
    export_table(database, path)
    frame = pd.read_csv(path)
    frame.drop(columns="form").to_csv(path, index=False)
    ((_, rows),) = read_table(path)
    assert rows == [point(0), point(16)]
    frame.drop(columns=["form", "kind"]).to_csv(path, index=False)
    ((_, rows),) = read_table(path)
    assert rows == [point(0), point(16)]
    frame.assign(form="rank=8").to_csv(path, index=False)
    with pytest.raises(UsageError, match="are not the form rank=8"):
        read_table(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("column", "cell", "says"),
    [
        ("fingerprint", "x", "fingerprint must be the JSON of a fingerprint, got 'x'"),
        ("fingerprint", None, "fingerprint must be the JSON of a fingerprint"),
        ("fingerprint", "[]", "fingerprint must be the JSON of a fingerprint"),
        ("fingerprint", '{"device": "cpu"}', "fingerprint must be the JSON of a fingerprint"),
        ("tokens", "x", "tokens must be a whole number from 0 to 2147483647, got 'x'"),
        ("tokens", "2.5", "tokens must be a whole number"),
        ("tokens", None, "tokens must be a whole number"),
        ("rank", "9" * 30, "rank must be a whole number"),
        ("latency_s", "x", "latency_s must be a number above 0, got 'x'"),
        ("latency_s", "inf", "latency_s must be a number above 0"),
        ("ratio_low", "0", "ratio_low must be a number above 0"),
        ("latency_s", None, "has neither an error nor a latency_s"),
        ("kind", None, "kind must be text"),
        ("kind", "round", "'round' is no kind of layer"),
        ("form", "rank=8", "are not the form rank=8"),
    ],
)
def test_an_edited_cell_is_refused_by_its_row_and_nothing_is_imported(
    database, tmp_path, suffix, column, cell, says
):
    """Also where the points of another fingerprint, all of them right, come first in the file."""
    path = tmp_path / f"table{suffix}"
    with LatencyDatabase(tmp_path / "source.sqlite") as source:
        for fingerprint in (dataclasses.replace(FINGERPRINT, device="another"), FINGERPRINT):
            source.add(source.start_run(fingerprint, "test"), [point(16), point(32)])
        export_table(source, path)
    frame = (pd.read_csv if suffix == ".csv" else pd.read_parquet)(path).astype("string")
    last = frame.index[frame["fingerprint"].str.contains('"cpu"')][-1]
    frame.loc[last, column] = cell
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path, index=False)
    with pytest.raises(UsageError, match=says) as caught:
        import_table(database, path)
    assert f"{path}, row {last + 1}: " in str(caught.value)
    assert database.fingerprints() == {}
    assert database.runs() == []


def test_what_the_database_refuses_is_not_imported_by_halves(database, tmp_path):
    first = dataclasses.replace(FINGERPRINT, device="another")
    with LatencyDatabase(tmp_path / "source.sqlite") as source:
        for fingerprint in (first, FINGERPRINT):
            source.add(source.start_run(fingerprint, "test"), [point(16)])
        export_table(source, tmp_path / "table.csv")
    frame = pd.read_csv(tmp_path / "table.csv")
    frame.loc[frame["fingerprint"].str.contains('"cpu"'), "latency_s"] = 2e6
    frame.to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(DatabaseError):
        import_table(database, tmp_path / "table.csv")
    assert first.id not in database.fingerprints()


def test_export_refuses_other_formats_and_import_other_tables(database, tmp_path):
    with pytest.raises(UsageError, match=r"\.csv or \.parquet"):
        export_table(database, tmp_path / "table.xlsx")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="no export"):
        import_table(database, tmp_path / "other.csv")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UsageError, match="no readable"):
        import_table(database, tmp_path / "broken.parquet")


def test_merge_twice_is_merge_once(database, tmp_path):
    other = dataclasses.replace(FINGERPRINT, device="elsewhere")
    with LatencyDatabase(tmp_path / "b.sqlite") as source:
        source.add(source.start_run(other, "test"), [point(16), point(32)])
    for _ in range(2):
        merge(database, tmp_path / "b.sqlite")
    assert len(database.measurements(other.id)) == 2
    assert database.measurements(FINGERPRINT.id) == []
    assert find_problems(database) == []


def test_merge_refuses_a_changed_source(database, tmp_path):
    with LatencyDatabase(tmp_path / "b.sqlite") as source:
        source.add(source.start_run(FINGERPRINT, "test"), [point(16)])
    with sqlite3.connect(tmp_path / "b.sqlite") as raw:
        raw.execute("UPDATE measurement SET ratio = 0.5")
    with pytest.raises(DatabaseError, match="not merged"):
        merge(database, tmp_path / "b.sqlite")
    with pytest.raises(DatabaseError, match="does not exist"):
        merge(database, tmp_path / "missing.sqlite")
    assert database.fingerprints() == {}


def test_a_shipped_file_is_one_and_holds_everything(database, tmp_path):
    run = database.start_run(FINGERPRINT, "test")
    database.add(
        run, [point(16), point(32, error="crash")], details={point(16).shape: DETAIL}, clocks=CLOCKS
    )
    path = tmp_path / "shipped" / "device.sqlite"
    path.parent.mkdir()
    ship(database, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["device.sqlite"]
    with LatencyDatabase(tmp_path / "target.sqlite") as target:
        assert merge(target, path) == 2
        assert target.runs() == database.runs()
        assert target.contents(run) == database.contents(run)
        merge(target, path)
        assert target.contents(run) == database.contents(run)
        assert find_problems(target) == []
    with pytest.raises(UsageError, match="exists already"):
        ship(database, path)


def test_a_damaged_database_is_not_shipped(database, tmp_path):
    database.add(database.start_run(FINGERPRINT, "test"), [point(16)])
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE measurement SET ratio = 0.5")
    with pytest.raises(DatabaseError, match="not shipped"):
        ship(database, tmp_path / "out.sqlite")
    assert not (tmp_path / "out.sqlite").exists()


def test_one_device_measured_otherwise_is_kept_apart_or_refused(database, tmp_path):
    newer = dataclasses.replace(FINGERPRINT, versions={"onnxruntime": "99"})
    database.add(database.start_run(FINGERPRINT, "test"), [point(16)])
    with LatencyDatabase(tmp_path / "b.sqlite") as source:
        source.add(source.start_run(newer, "test"), [point(16, latency_s=9.0)])
    with pytest.raises(DatabaseError, match=r"onnxruntime.*99.*keep_apart"):
        merge(database, tmp_path / "b.sqlite")
    assert newer.id not in database.fingerprints()
    merge(database, tmp_path / "b.sqlite", keep_apart=True)
    assert database.measurements(newer.id) == [point(16, latency_s=9.0)]
    assert database.measurements(FINGERPRINT.id) == [point(16)]


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.sqlite"])
def test_new_folders_are_made_for_what_is_written(database, cli, tmp_path, name):
    database.add(database.start_run(FINGERPRINT, "test"), [point(16)])
    path = tmp_path / "new" / "folder" / name
    what = "ship" if path.suffix == ".sqlite" else "export"
    done = cli("db", what, path, "--db", database.address)
    assert done.returncode == 0, done.stderr
    assert [found.name for found in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["/proc/x", "/proc/new/x", "file/x", "n" * 300])
@pytest.mark.parametrize(("what", "suffix"), [("export", ".csv"), ("ship", ".sqlite")])
def test_what_cannot_be_written_is_one_clear_sentence(database, cli, tmp_path, what, suffix, name):
    (tmp_path / "file").touch()
    done = cli("db", what, name + suffix, "--db", database.address, cwd=tmp_path)
    assert done.returncode == 2
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("autotune: cannot write ")
    assert "give another file" in sentence


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_earlier_export_is_replaced_and_another_file_is_not(database, tmp_path, suffix):
    path = tmp_path / f"latencies{suffix}"
    assert export_table(database, path) == export_table(database, path)
    for content in (b"a,b\n1,2\n", b"", b"SQLite format 3\0", b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="is no export of a latency database"):
            export_table(database, path)
        assert path.read_bytes() == content


def test_a_link_is_not_shipped_over(database, tmp_path):
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exists already"):
        ship(database, tmp_path / "link.sqlite")
    assert (tmp_path / "link.sqlite").is_symlink()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_export_is_imported_and_not_merged(database, tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    export_table(database, path)
    with pytest.raises(UsageError, match="`autotune db import` reads it"):
        merge(database, path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("request.json", "{}", "is no .csv or .parquet file"),
        ("table.parquet", "x", "is no readable .parquet file: "),
        ("table.csv", "", "is no readable .csv file: "),
        ("gone.csv", None, "does not exist"),
    ],
)
def test_what_cannot_be_imported_is_named_once(tmp_path, name, text, said):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_table(path)
    assert said in str(caught.value)
    assert str(caught.value).count(name) == 1
