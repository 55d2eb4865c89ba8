"""The coverage table: every class has a row, none ends in a traceback, and some are run again."""

import re
from collections import Counter
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", re.MULTILINE)


def test_the_page_has_a_row_for_every_class_and_no_traceback():
    from coverage_models import model_classes

    rows = ROW.findall(PAGE.read_text())
    assert [(name, kind) for name, kind, _ in rows] == [
        (name, kind) for name, _, kind in model_classes()
    ]
    outcomes = Counter(outcome for *_, outcome in rows)
    assert set(outcomes) <= {"passes", "no graph", "refused"}
    assert outcomes["passes"] > 0


def test_the_list_holds_bodies_of_every_kind_once():
    from coverage_models import model_classes

    found = {name: kind for name, _, kind in model_classes()}
    assert len(found) == len(list(model_classes())) > 120
    assert found["BertModel"] == "encoder"
    assert found["MixtralForCausalLM"] == "decoder"
    assert found["ViTForImageClassification"] == "image"
    assert found["CLIPModel"] == "two towers"
    assert found["T5EncoderModel"] == "text encoder"
    assert found["PegasusForConditionalGeneration"] == "encoder-decoder"
    assert not {"WhisperForCausalLM", "LlavaForConditionalGeneration"} & set(found)


def test_a_row_that_fails_is_a_traceback_with_its_last_line(monkeypatch):
    from coverage import page, run_row
    from coverage_models import Entry

    row = run_row(Entry("NoSuchClass", "bert", "encoder"))
    assert row["outcome"] == "traceback"
    assert "NoSuchClass" in row["note"]
    text = page([Entry("NoSuchClass", "bert", "encoder")], {"NoSuchClass": row})
    assert "- 1 end in a traceback." in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model_type", "kind", "outcome"),
    [
        ("CLIPModel", "clip", "two towers", "passes"),
        ("MixtralForCausalLM", "mixtral", "decoder", "passes"),
        ("MambaForCausalLM", "mamba", "decoder", "no graph"),
        ("PegasusForConditionalGeneration", "pegasus", "encoder-decoder", "refused"),
    ],
)
def test_a_class_goes_as_far_as_the_page_reports(name, model_type, kind, outcome):
    from coverage import run_row
    from coverage_models import Entry

    row = run_row(Entry(name, model_type, kind))
    assert row["outcome"] == outcome, row
    if outcome == "passes":
        assert row["prefill"] < 1e-4
    else:
        assert row["note"]
