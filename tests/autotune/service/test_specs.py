"""A job's fields are its command's options."""

import click
import pytest
from pydantic import ValidationError

from autotune.cli.main import cli as root
from autotune.service.specs import KINDS, arguments, defaults, spec_model

SET_BY_THE_SERVICE = {
    "tune": {"output", "database", "quiet", "output_format", "farm", "token_file"},
    "profile": {"database", "output_format", "farm", "token_file"},
    "export": {"folder", "output", "as_json"},
    "verify": {"folder", "output_format"},
    "drift": {"database", "output_format"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_a_field(kind):
    command = root
    for word in KINDS[kind].path:
        command = command.get_command(click.Context(command), word)
    options = {param.name for param in command.params}
    fields = set(spec_model(kind).model_fields) - {"run"}
    assert fields == options - SET_BY_THE_SERVICE[kind]


def test_what_a_command_refuses_is_refused_before(kind="drift"):
    for anchors in (0, 1001, "x"):
        with pytest.raises(ValidationError):
            spec_model(kind)(anchors=anchors)
    assert arguments(kind, spec_model(kind)(anchors=5).model_dump()) == ["--anchors=5"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_given_means_no_argument(kind):
    spec = spec_model(kind)(**({"run": "x"} if KINDS[kind].of_a_run else {})).model_dump()
    assert arguments(kind, spec) == []
    assert {**spec, "run": None} | defaults(kind) == {**spec, "run": None}


def test_the_command_reads_what_the_spec_said():
    """Parsed by the command itself, the arguments give the spec back."""
    spec = spec_model("tune")(
        model="--help", latency_budget="0.9x", isl=64, targets=["mlp", "-x"], joint=False,
        allow_extrapolation=True, measure_seconds=0.5, dtype="bf16", phase="decode",
    ).model_dump()  # fmt: skip
    command = KINDS["tune"].command
    context = command.make_context("tune", arguments("tune", spec))
    parsed = {name: context.params[name] for name in spec}
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in parsed.items()} == spec


@pytest.mark.parametrize(
    "field",
    [
        {"unknown": 1}, {"isl": -1}, {"isl": "x"}, {"isl": 2**40}, {"dtype": "int4"},
        {"measure_seconds": float("nan")}, {"measure_seconds": float("inf")}, {"model": "a\x00b"},
        {"model": "x" * 501}, {"targets": ["x"] * 65}, {"targets": "mlp"}, {"output": "/tmp"},
        {"database": "x"},
    ],
)  # fmt: skip
def test_what_is_no_option_is_refused(field):
    with pytest.raises(ValidationError):
        spec_model("tune")(**field)
