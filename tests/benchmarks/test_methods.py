"""The methods' benchmark: its rows are valid requests, and a row is a tuning by the product."""

import dataclasses
import importlib
import json
import sys

import pytest

from autotune.core.types import Budget
from autotune.tuning.options import MethodOptions
from autotune.tuning.request import TuneRequest
from tests.conftest import LLAMA

QUICK = ("--isl", "64", "--calibration-samples", "8", "--measure-seconds", "0.2", "--threads", "1")
KEYS = {
    *("method", "budget", "keep_ratio", "latency_budget", "perplexity", "dense_perplexity"),
    *("protocol", "calibration_activation_loss", "heldout_activation_loss", "parameters"),
    *("rounds", "predicted_ratio", "measured_ratio", "measured_ratio_low", "measured_ratio_high"),
    *("gap", "search_seconds", "peak_memory_bytes", "ranks"),
}


@pytest.fixture
def methods():
    return importlib.import_module("methods")


def test_every_method_is_a_valid_request(methods):
    request = TuneRequest(model=str(LLAMA), budget=Budget(flops="0.8x"))
    chosen = {name: method.applied(request) for name, method in methods.METHODS.items()}
    for each in chosen.values():
        each.check()
    plain = MethodOptions(precision="native", factors="plain")
    assert chosen["default plain"] == dataclasses.replace(request, method=plain)
    assert {each.precisions for each in chosen.values()} == {("native",)}
    assert chosen["default"].structures == ("plain", "pivoted")
    assert {each.structures for name, each in chosen.items() if name != "default"} == {("plain",)}
    assert chosen["exact sensitivity"].sensitivity_turns == 1
    assert chosen["exact on kfac"].sensitivity_turns == 0
    assert chosen["flar"].chosen_allocator == "flar"
    assert not chosen["default not joint"].offers_joint


def test_a_finished_row_is_found_again(methods, tmp_path):
    finished = tmp_path / "rows.jsonl"
    row = {"method": "flar", "budget": "flops 0.8x"}
    assert methods.kept(finished, row) is None
    methods.keep(finished, row | {"perplexity": 9.0})
    assert methods.kept(finished, row) == row | {"perplexity": 9.0}
    assert methods.kept(finished, row | {"budget": "flops 0.9x"}) is None


@pytest.mark.slow
@pytest.mark.duration(60)
def test_rows_are_tuned_and_kept(methods, tmp_path, monkeypatch, capsys):
    arguments = ("--model", str(LLAMA), "--output", str(tmp_path), "--latency", "", *QUICK)
    chosen = ("--methods", "svd uniform,exact on activation", "--keep", "0.8")
    monkeypatch.setattr(sys, "argv", ["methods.py", *arguments, *chosen])
    methods.main()
    *lines, last = capsys.readouterr().out.splitlines()
    uniform, exact = rows = json.loads(last)
    assert len(lines) == 2
    for row in rows:
        assert set(row) >= KEYS
        assert row["budget"] == "flops 0.8x"
        assert row["keep_ratio"] == 0.8
        assert 0.5 < row["parameters"] <= 0.8
        assert row["perplexity"] > row["dense_perplexity"]
    # Optimal ranks in the metric of the activations leave less of their error than uniform ones.
    assert exact["calibration_activation_loss"] < uniform["calibration_activation_loss"]
    methods.main()
    assert capsys.readouterr().out.splitlines()[-1] == last
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2
