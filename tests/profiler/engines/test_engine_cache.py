"""Engines that were built before are used only as they were built."""

import pytest

from autotune.profiler.engines import builder


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build an engine without TensorRT: the engine's path, and how often one was built."""
    built = []

    def in_process(task, engine, *, limit_s, tell):
        built.append(task)
        engine.parent.mkdir(parents=True, exist_ok=True)
        engine.write_text("engine")
        return {"layers": 12}

    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(builder, "missing_parts", lambda: None)
    key = {"device": "a GPU", "tensorrt": "10"}
    monkeypatch.setattr(builder, "engine_key", lambda onnx, task: key)
    monkeypatch.setattr(builder, "_in_process", in_process)

    def run():
        output = tmp_path / "model.engine"
        facts = builder.build_engine(tmp_path / "model.onnx", {}, output=output)
        assert facts == {"layers": 12, "key": key}
        assert output.read_text() == "engine"
        return len(built)

    return run


def test_an_engine_is_built_once(build):
    assert [build(), build()] == [1, 1]


@pytest.mark.parametrize("suffix", [".engine", ".json", ".engine.sha256", ".json.sha256"])
@pytest.mark.parametrize("content", [b"", b"engin", b"null", None])
def test_what_is_damaged_is_built_again(build, tmp_path, suffix, content):
    build()
    (path,) = (p for p in (tmp_path / "cache").rglob("*") if p.name.endswith(suffix))
    path.unlink() if content is None else path.write_bytes(content)
    assert [build(), build()] == [2, 2]
