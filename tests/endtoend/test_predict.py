"""`autotune predict`: what is answered, what is refused, and what the answer names."""

import json

import pytest

from tests.endtoend.test_bad_input import refuse

LAYER = ("predict", "--tokens", 2048, "--shape", "4096x4096")
SMALL = ("predict", "--tokens", 128, "--shape", "384x1536")


def answered(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--device", "h200", "--rank", 5000), "ranks up to 384"),
        (("--device", "h200", "--form", "rank=385"), "ranks up to 384"),
        (("--device", "a100", "--rank", 97), "a size of 97 cannot be priced"),
        (("--device", "h200", "--rank", 99999999999999999999), "--rank must be"),
        (("--device", "h200", "--backend", "torch-compile"), "it has torch-cudagraph"),
        (("--device", "h200", "--backend", "tensorrt"), "it has torch-cudagraph"),
        (("--device", "a100", "--dtype", "fp32"), "no fp32 table"),
        (("--device", "cpu", "--threads", -3), "--threads must be 1 or more"),
    ],
)
def test_what_cannot_be_answered_is_refused(cli, options, says):
    refuse(cli(*SMALL, *options), 2, says)


@pytest.mark.parametrize("tokens", ["0", "-1", "2.5", "9" * 400, "nan"])
def test_a_number_of_tokens_is_an_integer_that_fits(cli, tokens):
    refuse(cli("predict", "--tokens", tokens, "--shape", "64x64"), 2, "tokens")


@pytest.mark.parametrize("shape", ["00x128", "128x0", "x", "128", "1e3x128", "9" * 400 + "x128"])
def test_a_shape_is_two_sizes(cli, shape):
    refuse(cli("predict", "--tokens", 128, "--shape", shape), 2, "--shape must be IN_FEATURES")


@pytest.mark.parametrize(
    ("device", "rank", "bad", "reason"),
    [("h200", 96, 5000, "ranks up to 384"), ("a100", 96, 97, "a size of 97 cannot be priced")],
)
def test_one_bad_rank_does_not_drop_the_others(cli, device, rank, bad, reason):
    ranks = ("--device", device, "--rank", rank, "--rank", bad)
    record = answered(cli(*SMALL, *ranks, "--format", "json"))
    assert [each["rank"] for each in record["estimates"]] == [None, rank]
    assert list(record["refused"]) == [f"rank={bad}"]
    assert reason in record["refused"][f"rank={bad}"]
    lines = cli(*SMALL, *ranks).stdout.splitlines()
    assert any(line.startswith("refused: ") and reason in line for line in lines)


def test_the_text_names_what_it_is_of(cli):
    """Device, backend, dtype, tokens and shape; fp16 is answered from bf16 and says so."""
    first, *_, last = cli(*LAYER, "--device", "A100 ", "--dtype", "fp16").stdout.splitlines()
    assert first == "a100-sxm, imported, fp16: 2048 tokens, 4096x4096"
    assert "in bf16, which runs at the rate of fp16" in last


def test_to_ask_makes_no_database(cli, private_database):
    here = ("--device", "cpu", "--threads", 1)
    refuse(cli(*SMALL, *here), 2, "nothing measured is near")
    done = cli(*SMALL, *here, "--allow-extrapolation")
    assert done.returncode == 0
    assert "roofline" in done.stdout
    assert done.stdout.splitlines()[-1] == "from the specification sheet of cpu alone"
    assert not private_database.exists()
