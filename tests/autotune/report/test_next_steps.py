"""The last lines of a summary: what was gained, and what can be typed next."""

import ast
from dataclasses import replace

import pytest

from autotune.core.forms import DENSE
from autotune.report.next_steps import gain_lines, next_lines
from autotune.report.summary import summary
from tests.records import PREDICTED, stored_record


def test_the_gain_is_against_the_dense_model_here_and_where_people_run_it():
    record = stored_record()
    measured = record.measured
    (line,) = gain_lines(record)
    assert line.startswith("gained      1.08 times as fast as the dense model in onnxruntime-cpu,")
    brief = {record.backend: 2 * record.dense_latency_s}
    assert gain_lines(replace(record, dense_latencies_s=brief)) == [line]  # the paired one counts
    elsewhere = replace(
        record,
        backend="openvino-cpu",
        dense_latencies_s={"onnxruntime-cpu": 3 * measured.latency_s, "torch-eager": 1.0},
    )
    here, usual = gain_lines(elsewhere)
    assert "in openvino-cpu, fp32 (6.96 ms before, 6.42 ms now)" in here
    assert usual.strip().startswith("3.00 times as fast as the dense model in onnxruntime-cpu")


def test_nothing_is_gained_by_a_prediction_or_a_slower_model():
    assert gain_lines(stored_record(PREDICTED)) == []
    record = stored_record()
    slow = tuple(replace(one, ratio_high=1.3) for one in record.phases)
    assert gain_lines(replace(record, phases=slow)) == []


def test_the_dense_model_itself_gains_nothing():
    record = stored_record()
    dense = replace(record, sites=tuple(replace(each, form=DENSE) for each in record.sites))
    assert dense.is_dense and not record.is_dense
    assert gain_lines(dense) == ["gained      nothing: the dense model itself is handed out"]
    assert not replace(dense, runtime_dtype="bf16").is_dense


def test_the_next_steps_can_be_copied(tmp_path):
    folder = tmp_path / "my model"
    lines = next_lines(stored_record(), folder)
    assert lines[0] == f"next        read '{folder}'/report.html"
    assert f"autotune bench '{folder}'" in lines[2]
    code = lines[1].partition(", then ")[2]
    assert ast.unparse(ast.parse(code)) == code.replace('"', "'")
    assert summary(stored_record(), folder)[-len(lines) :] == lines


@pytest.mark.parametrize(
    ("backend", "graph", "opened"),
    [
        ("onnxruntime-cpu", "onnx/model.onnx", 'backend="onnx")'),
        ("openvino-cpu", "openvino/openvino_model.xml", "{'INFERENCE_PRECISION_HINT': 'bf16'}})"),
    ],
)
def test_a_graph_is_opened_in_the_runtime_that_it_was_tuned_for(tmp_path, backend, graph, opened):
    path = tmp_path / "model" / graph
    path.parent.mkdir(parents=True)
    path.write_text("")
    record = replace(
        stored_record(), backend=backend, runtime_options={"INFERENCE_PRECISION_HINT": "bf16"}
    )
    load = next_lines(record, tmp_path)[1]
    assert load.endswith(opened)
    ast.parse(load.partition("load it: ")[2])


def test_a_front_is_picked_from(tmp_path):
    record = stored_record()
    assert not any("autotune pick" in line for line in next_lines(record, tmp_path))
    assert any(
        "autotune pick" in line for line in next_lines(replace(record, front=(None,)), tmp_path)
    )


def test_a_prediction_is_not_measured_again(tmp_path):
    assert not any(
        "autotune bench" in line for line in next_lines(stored_record(PREDICTED), tmp_path)
    )
