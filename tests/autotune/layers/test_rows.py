"""Many layers at once: a file in, the same rows with their answers out."""

import csv
import io
import json
import math

import numpy as np
import pytest

import autotune
from autotune.core.errors import UsageError
from autotune.layers.answers import ANSWERED
from autotune.layers.options import PredictOptions
from autotune.layers.rows import Table, predict_rows, read_rows, write_rows

HEADER = "tokens,in_features,out_features,rank"
NUMBERS = ANSWERED[:-1]


def table(*lines, header=HEADER):
    return read_rows("\n".join([header, *lines]) + "\n")


def answered(asked, **options):
    """A dictionary for each row."""
    found = predict_rows(asked, PredictOptions(**options))
    columns = (found[name].tolist() for name in ANSWERED)
    return [dict(zip(ANSWERED, row, strict=True)) for row in zip(*columns, strict=True)]


def test_a_row_is_answered_like_a_single_layer():
    dense, pair = answered(table("2048,4096,4096,", "2048,4096,4096,1024"), device="h200")
    alone = autotune.predict(device="h200", tokens=2048, shape="4096x4096", ranks=(1024,))
    for row, estimate in zip((dense, pair), alone.estimates, strict=True):
        assert row == {
            "dense_s": pytest.approx(alone.estimates[0].latency_s),
            "latency_s": estimate.latency_s,
            "low_s": estimate.low_s,
            "high_s": estimate.high_s,
            "ratio": estimate.ratio,
            "ratio_low": estimate.ratio_low,
            "ratio_high": estimate.ratio_high,
            "source": estimate.source,
        }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2048,4096,4096,97", "a size of 97 cannot be priced"),
        ("2048,4096,4096,9999", "ranks up to 4096"),
        ("x,4096,4096,", "tokens must be a whole number, got 'x'"),
        ("2048,4096.5,4096,", "in_features must be a whole number"),
        ("2048,4096,,", "out_features must be a whole number, got ''"),
        ("0,4096,4096,", "must be 1 or more"),
        ("-3,4096,4096,", "must be 1 or more"),
        (f"{'9' * 400},4096,4096,", "tokens must be a whole number"),
        ("2048,4096,4096,1024,7", "more cells than the header"),
        ("2048,4096,4096,nan", ""),
        ("2048,4096,4096,1024.0", ""),
    ],
)
def test_a_row_without_an_answer_has_the_reason(line, reason):
    """The rows beside it are answered. An empty rank, also one of pandas, is the dense layer."""
    bad, good = answered(table(line, "64,4096,4096,32"), device="a100")
    assert good["latency_s"] > 0
    if not reason:
        assert bad["latency_s"] > 0
        return
    assert reason in bad["source"]
    assert all(math.isnan(bad[name]) for name in NUMBERS)


def test_rows_may_name_a_dtype_and_a_form():
    asked = table(
        "2048,4096,4096,,bf16,rank=1024",
        "2048,4096,4096,,fp16,",
        "2048,4096,4096,,int9,",
        "2048,4096,4096,,,rank",
        header=HEADER + ",dtype,form",
    )
    pair, half, unknown, wrong = answered(asked, device="h200")
    assert pair["ratio"] < 1 == half["ratio"]
    assert "fp32, fp16, bf16" in unknown["source"]
    assert math.isnan(wrong["latency_s"])
    assert "rank" in wrong["source"]


@pytest.mark.parametrize("is_json", [False, True])
def test_the_answer_has_the_format_and_the_columns_of_the_question(is_json):
    row = {"name": "q", "tokens": 1, "in_features": 2, "out_features": 3, "latency_s": "old"}
    cells = {name: [cell] for name, cell in row.items()}
    asked = Table(cells=cells, columns=tuple(row), objects=(row,) if is_json else ())
    answer = {**dict.fromkeys(NUMBERS), "latency_s": 1.5e-6, "source": "measured"}
    found = {name: np.array([np.nan if cell is None else cell]) for name, cell in answer.items()}
    text = write_rows(asked, found)
    if is_json:
        assert json.loads(text) == {**row, **answer}
        return
    (row,) = csv.DictReader(io.StringIO(text))
    assert list(row) == ["name", "tokens", "in_features", "out_features", *ANSWERED]
    assert (row["name"], row["latency_s"], row["dense_s"]) == ("q", "1.5e-06", "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no rows"),
        (HEADER, "no rows"),
        ("tokens,rank\n1,2\n", "missing: in_features, out_features"),
        ('{"tokens": 1}', "missing: in_features, out_features"),
        ('{"tokens": 1}\n[1]', "line 2 must be a JSON object"),
        ('{"tokens": 1', "line 1 is no JSON"),
    ],
)
def test_what_is_no_table_is_refused(text, problem):
    with pytest.raises(UsageError, match=problem):
        read_rows(text)


def test_the_command_answers_files_and_what_is_piped(cli, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(f"{HEADER}\n2048,4096,4096,1024\n2048,4096,4096,9999\n")
    done = cli("predict", "--device", "h200", "--shapes", path)
    assert done.returncode == 0, done.stderr
    good, bad = csv.DictReader(io.StringIO(done.stdout))
    assert float(good["ratio_low"]) < float(good["ratio"]) < float(good["ratio_high"])
    assert (bad["latency_s"], bad["ratio_high"]) == ("", "")
    path.write_text(f"{HEADER}\n2048,4096,4096,9999\n")
    assert cli("predict", "--device", "h200", "--shapes", path).returncode == 2
    both = cli("predict", "--device", "h200", "--shapes", path, "--rank", 8)
    assert both.returncode == 2
    assert "--shapes has the layers" in both.stderr


def test_a_name_in_a_file_reaches_no_terminal_as_it_is(cli, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(f"name,{HEADER}\n\x1b[2Jq,2048,4096,4096,\n")
    done = cli("predict", "--device", "h200", "--shapes", path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "q,2048,4096,4096" in done.stdout
