"""The model card of a tuned checkpoint."""

from dataclasses import replace

import pytest
from huggingface_hub.repocard import metadata_load

from autotune.compress.companions import is_companion
from autotune.core.forms import parse_form
from autotune.report.card import model_card
from autotune.results.verdict import Verdict
from tests.records import stored_record


def header(tmp_path, record, dense=None):
    path = tmp_path / "README.md"
    path.write_text(model_card(record, dense=dense))
    return metadata_load(path)


@pytest.fixture
def record():
    return stored_record()


def test_the_embedded_model_is_known_by_its_hub_id(tmp_path, record):
    record = replace(record, model="all-MiniLM-L6-v2", task="embedding")
    found = header(tmp_path, record)
    assert found["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert found["base_model_relation"] == "finetune"
    assert found["license"] == "apache-2.0"
    assert found["pipeline_tag"] == "feature-extraction"
    assert found["library_name"] == "transformers"


def test_layers_of_integers_make_a_quantized_model(tmp_path, record):
    sites = [replace(record.sites[0], form=parse_form("dense:int8-static")), *record.sites[1:]]
    record = replace(record, model="org/name", sites=tuple(sites))
    found = header(tmp_path, record)
    assert found["base_model_relation"] == "quantized"
    assert "int8" in found["tags"]
    assert "1 are stored and computed in integers" in model_card(record)


def test_a_folder_of_this_machine_is_no_base_model(tmp_path, record):
    found = header(tmp_path, replace(record, model="/home/somebody/model"))
    assert "base_model" not in found and "base_model_relation" not in found


def test_what_the_dense_model_says_of_licence_and_use_is_passed_on(tmp_path, record):
    dense = tmp_path / "dense"
    dense.mkdir()
    (dense / "README.md").write_text(
        "---\nlicense: llama3\nlicense_name: x\nlanguage: en\npipeline_tag: text-ranking\n"
        "tags: [other]\n---\n# dense\n"
    )
    (dense / "modules.json").write_text("[]")
    found = header(tmp_path, record, dense)
    assert "sentence_transformers import" not in model_card(record, dense=dense)  # no graphs
    assert (found["license"], found["language"]) == ("llama3", "en")
    assert found["pipeline_tag"] == "text-ranking"
    assert found["library_name"] == "sentence-transformers"
    assert "other" not in found["tags"]


@pytest.mark.parametrize("text", ["no header", "---\n: [\n---\n", "---\n- a\n---\n", ""])
def test_a_card_that_cannot_be_read_says_nothing(tmp_path, record, text):
    dense = tmp_path / "dense"
    dense.mkdir()
    (dense / "README.md").write_text(text)
    assert "license" not in header(tmp_path, record, dense)


def test_a_miss_is_said(record):
    card = model_card(replace(record, verdict=Verdict.MISSED))
    assert "**The measured model misses the budget." in card


@pytest.mark.parametrize(
    ("name", "passed_on"),
    [
        ("LICENSE", True),
        ("LICENCE.txt", True),
        ("LICENSE-MIT.txt", True),
        ("NOTICE", True),
        ("Notice.txt", True),
        ("USE_POLICY.txt", True),
        ("README.md", False),
        ("license.py", False),
        ("LICENSE/x", False),
    ],
)
def test_licences_are_passed_on(name, passed_on):
    assert is_companion(name) is passed_on
