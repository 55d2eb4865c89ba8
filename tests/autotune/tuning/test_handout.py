"""What a tuning hands out is what it made: never a damaged, stale or blessed file."""

import json
import shutil

import pytest

from autotune.core.errors import UsageError
from autotune.core.files import file_sha256
from autotune.core.progress import Reporter
from autotune.report import html
from autotune.report.svg import svg
from tests.autotune.tuning.small import small_home, tune_small
from tests.damage import DAMAGES

pytestmark = [pytest.mark.slow, pytest.mark.duration(50)]


class Notes(Reporter):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return small_home(tmp_path_factory.mktemp("handout"))


@pytest.fixture(scope="module", autouse=True)
def charts_drawn_once():
    """Nearly all of these tunings report the same, and to draw it takes most of their time."""
    drawn = {}

    def once(chart):
        if repr(chart) not in drawn:
            drawn[repr(chart)] = svg(chart)
        return drawn[repr(chart)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html, "svg", once)
        yield


@pytest.fixture(scope="module")
def tune(home):
    """The same small tuning, into any folder.

    Its limit on the latency holds in any case: only what met its budget is not timed again.
    """

    def run(output, budget="0.95x", notes=None):
        return tune_small(
            home,
            output,
            params_budget=budget,
            latency_budget="100s",
            sensitivity_rounds=1,
            rounds=1,
            reporter=notes or Notes(),
        )

    return run


@pytest.fixture(scope="module")
def tuned(home, tune):
    return tune(home / "tuned")


@pytest.fixture
def copied(tuned, tmp_path):
    shutil.copytree(tuned.folder, tmp_path / "out")
    return tmp_path / "out"


def hashes(folder, record):
    return {name: file_sha256(folder / name) for name in record.files}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("model.safetensors", damage) for damage in ("truncated", "empty", "bit", "zeros")),
        *((name, "null") for name in ("config.json", "tokenizer.json", "autotune.json")),
    ],
)
def test_a_changed_checkpoint_is_written_again(tuned, copied, tune, name, damage):
    path = copied / "model" / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    again = tune(copied)
    assert again.record.files == tuned.record.files == hashes(copied, again.record)


def test_templates_of_the_model_that_changed_are_handed_out_anew(home, copied, tune):
    template = home / "dense" / "chat_template.jinja"
    try:
        for text in ("{{ messages }}", "{{ messages[0] }}"):
            template.write_text(text)
            again = tune(copied)
            assert (copied / "model" / template.name).read_text() == text
            assert hashes(copied, again.record) == again.record.files
    finally:
        template.unlink()


# benchmarks/damage.py crosses every damage with every kind of entry.
@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        *(("compressed", damage) for damage in ("truncated", "empty", "bit", "zeros")),
        *((kind, "truncated") for kind in ("dense", "factors", "judgement", "anchor", "inputs")),
        ("factors", "zeros"),
        ("anchor", "null"),
    ],
)
def test_a_damaged_entry_of_the_cache_is_named_and_nothing_of_it_is_handed_out(
    tuned, copied, tune, kind, damage
):
    named = (copied / ".cache").glob(f"{kind}-{'[0-9a-f]' * 16}*")
    (entry,) = (path for path in named if path.suffix != ".sha256")
    path = entry / "model.onnx" if entry.is_dir() else entry
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    notes = Notes()
    again = tune(copied, notes=notes)
    assert again.record.quality == tuned.record.quality
    assert again.plan == tuned.plan
    for name in ("model.onnx", "model/model.safetensors", "model/config.json"):
        assert file_sha256(copied / name) == tuned.record.files[name]
    assert hashes(copied, again.record) == again.record.files
    assert any(str(entry) in line and "made again" in line for line in notes.lines)


def test_factors_that_another_budget_needs_are_made_again(tuned, copied, tune, tmp_path):
    shutil.copytree(tuned.folder, tmp_path / "undamaged")
    expected = tune(tmp_path / "undamaged", budget="0.9x")
    (path,) = (copied / ".cache").glob("factors-*.safetensors")
    path.write_bytes(DAMAGES["zeros"](path.read_bytes()))
    assert tune(copied, budget="0.9x").record.quality == expected.record.quality


def test_a_graph_of_an_earlier_result_is_removed_and_one_of_the_user_is_refused(copied, tune):
    record = json.loads((copied / "result.json").read_text())
    (copied / "model_decode.onnx").write_text("of an earlier tuning with decode steps")
    with pytest.raises(UsageError, match=r"model_decode\.onnx is not of an earlier"):
        tune(copied)
    files = {**record["files"], "model_decode.onnx": "0" * 64}
    (copied / "result.json").write_text(json.dumps({**record, "files": files}))
    assert "model_decode.onnx" not in tune(copied).record.files
    assert not (copied / "model_decode.onnx").exists()


def test_bench_refuses_a_damaged_build(copied):
    from autotune.tuning.bench import bench

    (path,) = (copied / ".cache").glob("compressed-*/model.onnx")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageError, match="run the tuning again"):
        bench(copied, Reporter())


def test_files_are_readable_by_others(tuned):
    modes = {(tuned.folder / name).stat().st_mode & 0o777 for name in tuned.record.files}
    assert len(modes) == 1
