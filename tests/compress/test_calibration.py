import pytest
import torch
from safetensors.torch import save_file

from autotune.compress.calibration import load_calibration
from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.loading import load_model
from autotune.compress.tasks.base import MASK
from autotune.core.errors import CalibrationError
from autotune.core.types import Workload
from tests.conftest import LLAMA

WORKLOAD = Workload(batch_size=1, sequence_length=64)


@pytest.fixture(scope="module")
def llama():
    return load_model(str(LLAMA))


@pytest.fixture(scope="module")
def encoder():
    return load_model(None)


def rows(batches):
    return [
        tuple(ids[mask.bool()].tolist())
        for batch in batches
        for ids, mask in zip(batch["input_ids"], batch[MASK], strict=True)
    ]


def test_the_three_parts_never_overlap(encoder):
    data = load_calibration(encoder, CalibrationPlan(), workload=Workload(sequence_length=128))
    parts = [set(rows(part)) for part in (data.statistics, data.search, data.heldout)]
    assert [len(part) for part in parts] == [1024, 128, 256]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]


def test_the_same_plan_gives_the_same_data_and_another_seed_other(encoder):
    workload = Workload(sequence_length=32)
    first, again, other = (
        load_calibration(encoder, CalibrationPlan(seed=seed), workload=workload)
        for seed in (0, 0, 1)
    )
    assert first.sha256 == again.sha256 != other.sha256


def test_windows_of_a_language_model_are_contiguous_and_unpadded(llama, tmp_path):
    text = (LLAMA / "heldout.txt").read_text()[:40_000]
    (tmp_path / "text.txt").write_text(text)
    plan = CalibrationPlan(calibration=str(tmp_path / "text.txt"))
    data = load_calibration(llama, plan, workload=WORKLOAD)
    ids = llama.tokenizer(text)["input_ids"]
    windows = [r for part in (data.statistics, data.search, data.heldout) for r in rows(part)]
    assert {len(window) for window in windows} == {64}
    expected = [tuple(ids[i : i + 64]) for i in range(0, len(ids) - 63, 64)]
    assert set(windows) <= set(expected)
    assert expected[-1] in rows(data.heldout)
    first_heldout = min(expected.index(row) for row in rows(data.heldout))
    assert first_heldout >= 0.75 * len(expected)


def test_an_evaluation_file_is_used_whole_minus_what_was_calibrated_on(llama, tmp_path):
    text = (LLAMA / "heldout.txt").read_text()
    (tmp_path / "a.txt").write_text(text[:30_000])
    (tmp_path / "b.txt").write_text(text[:60_000])
    plan = CalibrationPlan(calibration=str(tmp_path / "a.txt"), evaluation=str(tmp_path / "b.txt"))
    data = load_calibration(llama, plan, workload=WORKLOAD)
    seen = set(rows(data.statistics)) | set(rows(data.search))
    held = rows(data.heldout)
    assert not set(held) & seen
    assert len(held) > 100
    (tmp_path / "c.txt").write_text(text[:5_000])
    same = CalibrationPlan(calibration=str(tmp_path / "c.txt"), evaluation=str(tmp_path / "c.txt"))
    with pytest.raises(CalibrationError, match="also a calibration sample"):
        load_calibration(llama, same, workload=WORKLOAD)


@pytest.mark.parametrize("text", ["x", "", "\n\n\n"])
def test_too_little_text_is_refused(llama, encoder, tmp_path, text):
    (tmp_path / "short.txt").write_text(text)
    for loaded in (llama, encoder):
        with pytest.raises(CalibrationError, match=r"has \d+ token.*at least 8 are needed"):
            load_calibration(
                loaded, CalibrationPlan(calibration=str(tmp_path / "short.txt")), workload=WORKLOAD
            )


def test_files_that_are_no_text(llama, tmp_path):
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00" * 1000)
    for name, why in (("binary.txt", "UTF-8"), ("missing.txt", "No such file")):
        with pytest.raises(CalibrationError, match=why):
            load_calibration(
                llama, CalibrationPlan(calibration=str(tmp_path / name)), workload=WORKLOAD
            )


def test_tensors_calibrate_any_model(encoder, tmp_path):
    save_file({"pixel_values": torch.randn(40, 3, 8, 8)}, tmp_path / "images.safetensors")
    plan = CalibrationPlan(calibration=str(tmp_path / "images.safetensors"))
    data = load_calibration(encoder, plan, workload=WORKLOAD)
    assert sum(len(b["pixel_values"]) for b in data.heldout) == 8
    for bad in ({"a": torch.ones(3, 2)}, {"a": torch.ones(9, 2), "b": torch.ones(10)}):
        save_file(bad, tmp_path / "bad.safetensors")
        with pytest.raises(CalibrationError, match="first dimension"):
            load_calibration(
                encoder,
                CalibrationPlan(calibration=str(tmp_path / "bad.safetensors")),
                workload=WORKLOAD,
            )
