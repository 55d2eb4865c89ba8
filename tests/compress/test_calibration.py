import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from autotune.compress.calibration import load_calibration
from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.loading import LoadedModel, load_model
from autotune.compress.tasks.base import MASK
from autotune.core.errors import CalibrationError, ModelError
from autotune.core.types import Workload
from tests.conftest import LLAMA, tiny_model

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


def saved(folder, **tensors):
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format)
               for name, tensor in tensors.items()}  # fmt: skip
    save_file(tensors, folder / "tensors.safetensors")
    return CalibrationPlan(calibration=str(folder / "tensors.safetensors"))


def test_tensors_calibrate_a_model_of_images(tmp_path):
    vit = loaded_tiny("vit", "embedding")
    data = load_calibration(
        vit, saved(tmp_path, pixel_values=torch.randn(40, 3, 32, 32)), workload=WORKLOAD
    )
    assert sum(len(b["pixel_values"]) for b in data.heldout) == 8
    plan = saved(tmp_path, pixel_values=torch.randn(40, 3, 32, 32).half())
    (batch, *_) = load_calibration(vit, plan, workload=WORKLOAD).heldout
    assert batch["pixel_values"].dtype == torch.float32


def test_tensors_share_a_first_dimension(encoder, tmp_path):
    for bad in (
        {"input_ids": torch.ones(3, 2).long()},
        {"input_ids": torch.ones(9, 2).long(), "attention_mask": torch.ones(10, 2).long()},
        {"input_ids": torch.ones(9, 2).long(), "attention_mask": torch.tensor(1)},
    ):
        with pytest.raises(CalibrationError, match="first dimension"):
            load_calibration(encoder, saved(tmp_path, **bad), workload=WORKLOAD)


IDS = torch.randint(0, 1000, (40, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int64])
def test_whole_numbers_of_any_size_are_ids_and_a_missing_mask_is_ones(encoder, tmp_path, dtype):
    plan = saved(tmp_path, input_ids=IDS.to(dtype))
    data = load_calibration(encoder, plan, workload=WORKLOAD)
    for batch in (*data.statistics, *data.search, *data.heldout):
        assert batch["input_ids"].dtype == batch[MASK].dtype == torch.int64
        assert batch[MASK].all()
    whole = load_calibration(encoder, saved(tmp_path, input_ids=IDS), workload=WORKLOAD)
    assert rows(whole.heldout) == rows(data.heldout)
    as_bools = saved(tmp_path, input_ids=IDS, attention_mask=torch.ones_like(IDS).bool())
    assert rows(load_calibration(encoder, as_bools, workload=WORKLOAD).heldout) == rows(
        data.heldout
    )


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"tokens": IDS}, "lacks 'input_ids': .* takes input_ids, attention_mask.*has tokens"),
        ({"input_ids": IDS, "labels": IDS}, "has 'labels', which is no input"),
        ({"input_ids": IDS, "inputs": IDS}, "has 'inputs', which is no input"),
        ({"input_ids": IDS.float()}, "'input_ids' .* must hold whole numbers"),
        ({"input_ids": IDS + 31000}, "holds token 31.*tokens 0 to 30521"),
        ({"input_ids": IDS - 500}, "holds token -.*tokens 0 to 30521"),
        ({"input_ids": IDS[0]}, "must have 2 dimensions.*shape .12,."),
        ({"input_ids": IDS[:, :0]}, "none of them 0"),
        ({"input_ids": IDS[None].expand(9, -1, -1)}, "must have 2 dimensions"),
        ({"input_ids": IDS.repeat(1, 50)}, "sequences of 600 tokens; the model has 512 positions"),
        ({"input_ids": IDS, "attention_mask": torch.ones(40, 3).long()}, "has the shape .40, 3."),
        ({"input_ids": IDS, "attention_mask": 0 * IDS}, "leaves no token of sample 0"),
        ({"input_ids": IDS, "attention_mask": 2 + 0 * IDS}, "must hold 1 for tokens"),
        ({"input_ids": IDS, "attention_mask": torch.ones(40, 12)}, "must hold whole numbers"),
        ({"input_ids": torch.ones(40, 12, dtype=torch.complex64)}, "no model takes"),
    ],
)
def test_tensors_are_checked_against_the_inputs_when_they_are_read(
    encoder, tmp_path, tensors, message
):
    with pytest.raises(CalibrationError, match=message):
        load_calibration(encoder, saved(tmp_path, **tensors), workload=WORKLOAD)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.full((9, 3, 32, 32), torch.nan), "holds 27648 NaN or infinite"),
        (torch.ones(9, 3, 16, 16), r"have the shape \(3, 16, 16\).*takes \(3, 32, 32\)"),
        (torch.ones(9, 3, 32, 32, dtype=torch.uint8), "must hold floating-point numbers"),
    ],
)
def test_pixels_are_checked_as_well(tmp_path, pixels, message):
    with pytest.raises(CalibrationError, match=message):
        vit = loaded_tiny("vit", "embedding")
        load_calibration(vit, saved(tmp_path, pixel_values=pixels), workload=WORKLOAD)


def loaded_tiny(kind, task, **changes):
    values = {"name": kind, "folder": Path("/nonexistent"), "task": task, "tokenizer": None}
    values |= {"model": tiny_model(kind), "weights_sha256": "", **changes}
    return LoadedModel(**values)


def test_text_does_not_calibrate_a_model_with_other_inputs(encoder, llama):
    for loaded, inputs in (
        (loaded_tiny("clip", "image-text", tokenizer=encoder.tokenizer), "takes pixel_values"),
        (loaded_tiny("vit", "embedding", tokenizer=encoder.tokenizer), "takes pixel_values"),
        (loaded_tiny("bert", "embedding"), "has no tokenizer"),
    ):
        with pytest.raises(CalibrationError, match=f"{inputs}, so text cannot calibrate it; set"):
            load_calibration(loaded, CalibrationPlan(), workload=WORKLOAD)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_tokenizer_whose_vocabulary_is_missing(kind, tmp_path):
    """Of text it makes nothing, or one unknown token of every word."""
    name = {"llama": "LlamaTokenizer", "bert": "BertTokenizer"}[kind]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    task = {"llama": "causal-lm", "bert": "embedding"}[kind]
    loaded = loaded_tiny(kind, task, folder=tmp_path, tokenizer=tokenizer)
    with pytest.raises(CalibrationError, match=f"without a vocabulary .*{tmp_path}.* text cannot"):
        load_calibration(loaded, CalibrationPlan(), workload=WORKLOAD)


def test_a_tokenizer_with_more_tokens_than_the_model(llama, tmp_path):
    tokenizer = copy.deepcopy(llama.tokenizer)
    tokenizer.add_tokens(["onnxscript"])
    loaded = replace(llama, tokenizer=tokenizer)
    (tmp_path / "text.txt").write_text("import onnxscript\n" * 2000)
    plan = CalibrationPlan(calibration=str(tmp_path / "text.txt"))
    with pytest.raises(CalibrationError, match="has 2049 tokens and the model's embedding 2048"):
        load_calibration(loaded, plan, workload=WORKLOAD)


@pytest.mark.parametrize("model", ["llama", "encoder"])
def test_a_tokenizer_that_fails_is_named(request, model):
    """Its configuration is only looked at when a text is longer than its limit."""
    loaded = request.getfixturevalue(model)
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.model_max_length = "x"
    with pytest.raises(ModelError, match=r"the tokenizer of .* cannot read the text: .*") as caught:
        load_calibration(replace(loaded, tokenizer=tokenizer), CalibrationPlan(), workload=WORKLOAD)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_shortest_sequences(llama, encoder, length):
    workload = Workload(batch_size=1, sequence_length=length)
    windows = rows(load_calibration(llama, CalibrationPlan(), workload=workload).heldout)
    assert {len(row) for row in windows} == {max(2, length)}
    documents = rows(load_calibration(encoder, CalibrationPlan(), workload=workload).heldout)
    assert {len(row) for row in documents} == {3}  # [CLS], a token of the text, [SEP]


def test_padding_is_the_models_own_on_the_side_of_the_tokenizer(encoder):
    config = copy.deepcopy(encoder.config)
    config.pad_token_id = 7
    model = copy.copy(encoder.model)
    model.config = config
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.padding_side = "left"
    plain = load_calibration(encoder, CalibrationPlan(), workload=WORKLOAD)
    padded = load_calibration(
        replace(encoder, model=model, tokenizer=tokenizer), CalibrationPlan(), workload=WORKLOAD
    )
    assert rows(plain.heldout) == rows(padded.heldout)
    assert plain.sha256 != padded.sha256
    mixed = [b for b in padded.heldout if not b[MASK].all()]
    assert mixed
    for batch in mixed:
        assert (batch["input_ids"][batch[MASK] == 0] == 7).all()
        assert batch[MASK][:, -1].all()
        assert (batch[MASK].diff(dim=1) >= 0).all()


def test_masked_tokens_are_few_and_never_special_ones(encoder):
    loaded = replace(encoder, task="masked-lm")
    mask = encoder.tokenizer.mask_token_id
    data = load_calibration(loaded, CalibrationPlan(), workload=WORKLOAD)
    again = load_calibration(loaded, CalibrationPlan(), workload=WORKLOAD)
    assert data.sha256 == again.sha256
    found = rows(data.statistics)
    assert all(mask in row for row in found)
    assert all(row[0] == encoder.tokenizer.cls_token_id for row in found)
    share = sum(row.count(mask) for row in found) / sum(map(len, found))
    assert 0.1 < share < 0.17


def test_text_calibrates_and_tensors_are_held_out(encoder, tmp_path):
    save_file({"input_ids": IDS}, tmp_path / "held.safetensors")
    plan = CalibrationPlan(evaluation=str(tmp_path / "held.safetensors"))
    data = load_calibration(encoder, plan, workload=WORKLOAD)
    assert sum(len(b["input_ids"]) for b in data.heldout) == 40


@pytest.mark.parametrize("count", [8, 9, 10])
def test_more_than_one_sample_is_held_out(encoder, tmp_path, count):
    data = load_calibration(encoder, saved(tmp_path, input_ids=IDS[:count]), workload=WORKLOAD)
    assert len(rows(data.heldout)) == 2


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"token_type_ids": 5 + 0 * IDS}, "'token_type_ids' .* holds 5; the model takes 0 to 1"),
        ({"token_type_ids": 0 * IDS - 1}, "'token_type_ids' .* holds -1; the model takes 0 to 1"),
        ({"token_type_ids": 0 * IDS[:, :3]}, r"'token_type_ids' .* shape \(40, 3\), 'input_ids'"),
        ({"token_type_ids": 0.0 * IDS}, "'token_type_ids' .* must hold whole numbers"),
        ({"position_ids": 512 + 0 * IDS}, "'position_ids' .* holds 512; the model takes 0 to 511"),
        ({"position_ids": IDS[:, None] % 12}, "'position_ids' .* must have 2 dimensions"),
    ],
)
def test_types_and_positions_of_tokens_are_checked_as_well(encoder, tmp_path, tensors, message):
    with pytest.raises(CalibrationError, match=message):
        load_calibration(encoder, saved(tmp_path, input_ids=IDS, **tensors), workload=WORKLOAD)


def test_types_and_positions_of_tokens_are_taken(encoder, tmp_path):
    more = {"token_type_ids": IDS % 2, "position_ids": IDS % 512}
    data = load_calibration(encoder, saved(tmp_path, input_ids=IDS, **more), workload=WORKLOAD)
    assert {*data.heldout[0]} == {"input_ids", MASK, *more}


def test_texts_of_a_model_of_texts_and_images_are_checked_as_well(tmp_path):
    ids = torch.randint(0, 100, (40, 65), generator=torch.Generator().manual_seed(0))
    plan = saved(tmp_path, input_ids=ids, pixel_values=torch.randn(40, 3, 32, 32))
    with pytest.raises(CalibrationError, match="sequences of 65 tokens; the model has 64 posit"):
        load_calibration(loaded_tiny("clip", "image-text"), plan, workload=WORKLOAD)
