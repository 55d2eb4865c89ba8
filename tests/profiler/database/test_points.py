"""A user's own points: six columns, all lines or none."""

import json

import pytest

from autotune.core.errors import UsageError
from autotune.devices.specs import find_device
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.points import COLUMNS, import_points, read_points

A40 = find_device("a40")
HEADER = ",".join(COLUMNS)
SLOWER = ("2048,4096,4096,,bf16,6e-04", "2048,4096,4096,1024,bf16,3.6e-04")


def written(folder, *lines, header=HEADER):
    path = folder / "points.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_points_become_measurements(tmp_path):
    path = written(tmp_path, *SLOWER, "", SLOWER[0].replace("6e-04", "8e-04"))
    with LatencyDatabase(tmp_path / "latency.sqlite") as store:
        assert import_points(store, path, spec=A40) == 2
        ((key, fingerprint),) = store.fingerprints().items()
        dense, pair = sorted(store.measurements(key), key=lambda row: row.shape.rank)
    assert (fingerprint.device, fingerprint.dtype) == ("a40", "bf16")
    assert dense.latency_s == pytest.approx(7e-4)  # the median of both
    assert (pair.shape.rank, pair.latency_s) == (1024, 3.6e-4)
    assert pair.ratio == pytest.approx(3.6 / 7)


def test_a_later_file_adds_points_and_corrects_those_of_an_earlier_one(tmp_path):
    with LatencyDatabase(tmp_path / "latency.sqlite") as store:
        import_points(store, written(tmp_path, *SLOWER), spec=A40)
        later = tmp_path / "later.csv"
        later.write_text(f"{HEADER}\n2048,4096,4096,,bf16,7e-4\n64,4096,4096,,bf16,9e-5\n")
        import_points(store, later, spec=A40)
        (key,) = store.fingerprints()
        found = {
            (row.shape.tokens, row.shape.rank): row.latency_s for row in store.measurements(key)
        }
    assert found == {(2048, 0): 7e-4, (2048, 1024): 3.6e-4, (64, 0): 9e-5}


def test_columns_go_by_their_names(tmp_path):
    path = written(
        tmp_path, "bf16,6e-4,4096,64,2048,", header="dtype, seconds, in, out, tokens, rank"
    )
    (shape,) = read_points(path, A40)
    assert (shape.tokens, shape.in_features, shape.out_features) == (2048, 4096, 64)
    assert shape.is_dense


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("2048,4096,4096,,bf16", "line 3: needs 6 cells, has 5"),
        ("2048.5,4096,4096,,bf16,6e-4", "line 3: tokens must be a whole number"),
        ("0,4096,4096,,bf16,6e-4", "line 3: tokens must be from 1"),
        ("2048,-4096,4096,,bf16,6e-4", "line 3: in_features must be"),
        ("2048,4096,99999999999999999999,,bf16,6e-4", "line 3: out_features must be"),
        ("2048,4096,4096,4097,bf16,6e-4", "line 3: rank must be at most 4096"),
        ("2048,4096,4096,,int8,6e-4", "line 3: dtype must be one of fp32, fp16, bf16"),
        ("2048,4096,4096,,bf16,fast", "line 3: seconds must be a number"),
        ("2048,4096,4096,,bf16,nan", "line 3: seconds must be from"),
        ("2048,4096,4096,,bf16,-1", "line 3: seconds must be from"),
        ("2048,4096,4096,,bf16,600000", "are they in another unit"),
        ("2048,4096,4096,,bf16,6e-7", "are they in another unit"),
        ("1024,4096,4096,64,bf16,6e-4", "has no dense layer beside it"),
    ],
)
def test_a_line_that_is_no_point_is_named_and_nothing_is_kept(tmp_path, line, says):
    path = written(tmp_path, SLOWER[0], line)
    with LatencyDatabase(tmp_path / "latency.sqlite") as store:
        with pytest.raises(UsageError, match=says):
            import_points(store, path, spec=A40)
        assert store.fingerprints() == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "must have the columns tokens,in_features"),
        (b"tokens,in,out,rank,dtype,ms\n", "must have the columns"),
        (HEADER.encode(), "has no points"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, content, says):
    path = tmp_path / "points.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        read_points(path, A40)
    with pytest.raises(UsageError, match="cannot be read"):
        read_points(tmp_path / "missing.csv", A40)


def test_a_device_is_predicted_from_its_points(cli, tmp_path, private_database):
    path = written(tmp_path, *SLOWER)
    done = cli("db", "import", path, "--device", "NVIDIA A40")
    assert done.returncode == 0, done.stderr
    asked = ("predict", "--device", "a40", "--tokens", 2048, "--shape", "4096x4096")
    found = json.loads(cli(*asked, "--rank", 1024, "--json").stdout.splitlines()[-1])
    assert [each["latency_s"] for each in found["estimates"]] == pytest.approx([6e-4, 3.6e-4])
    assert found["backend"] == "points"
