"""Builds and inputs that travel to a worker."""

import os
import time

import pytest

from autotune.farm.parcels import (
    is_here,
    make_parcel,
    moved,
    parcel_folder,
    path_here,
    paths_in,
    unpack,
)
from autotune.profiler.measure.tasks import Subject, TimingTask
from autotune.profiler.measure.timing import TimingPolicy


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def graph(tmp_path):
    """An ONNX file with external data, beside a file that is none of its own."""
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "model.onnx.data").write_bytes(b"weights")
    (folder / "other").write_bytes(b"other")
    return folder / "model.onnx"


def test_a_graph_travels_with_its_data_and_nothing_else(graph):
    parcel = make_parcel(graph)
    assert not is_here(parcel.sha256)
    unpack(parcel.sha256, parcel.contents())
    assert is_here(parcel.sha256)
    there = path_here(parcel.sha256, graph.name)
    assert there.read_bytes() == b"graph"
    assert sorted(path.name for path in there.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert parcel_folder().stat().st_mode & 0o777 == 0o700


def test_a_folder_travels_whole(graph):
    parcel = make_parcel(graph.parent)
    unpack(parcel.sha256, parcel.contents())
    there = path_here(parcel.sha256, "build")
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {
        path.name: path.read_bytes() for path in graph.parent.iterdir()
    }


def test_the_hash_is_of_names_and_contents(graph):
    before = make_parcel(graph).sha256
    assert make_parcel(graph).sha256 == before
    graph.with_name("model.onnx.data").write_bytes(b"others")
    assert make_parcel(graph).sha256 != before
    assert make_parcel(graph.rename(graph.with_name("copy.onnx"))).sha256 != before


def test_tasks_open_what_travelled(graph, tmp_path):
    inputs = tmp_path / "inputs.safetensors"
    layer = Subject()
    network = Subject(network=str(graph), inputs=str(inputs))
    task = TimingTask(subjects=(network, layer, network), policy=TimingPolicy())
    assert paths_in([task, task]) == [graph, inputs]
    (there,) = moved([task], {str(graph): "/there/model.onnx", str(inputs): "/there/inputs"})
    assert there.subjects[0] == Subject(network="/there/model.onnx", inputs="/there/inputs")
    assert there.subjects[1] == layer
    assert there.policy == task.policy


def test_what_nobody_used_for_a_day_goes(graph):
    old = make_parcel(graph)
    unpack(old.sha256, old.contents())
    yesterday = time.time() - 25 * 3600
    os.utime(parcel_folder() / old.sha256, (yesterday, yesterday))
    graph.write_bytes(b"new")
    new = make_parcel(graph)
    unpack(new.sha256, new.contents())
    assert is_here(new.sha256)
    assert not is_here(old.sha256)
