import re
import time

import pytest

from autotune.core.errors import UsageError
from autotune.core.patterns import NamePattern
from autotune.search.allocators.pgsvd import Pgsvd
from autotune.tuning.options import MethodOptions

NAMES = ("model.layers.0.self_attn.q_proj", "model.layers.11.mlp.up_proj", "encoder.fc1", "lm_head")
SLOW = (
    r"^(([a-z0-9_.])+)+!$",
    r"^([a-z0-9_.]+)+!$",
    r"(a|[a-z0-9_.])+(x|[a-z0-9_.])+(y|[a-z0-9_.])*!$",
    r"^(\w|[a-z.]|[0-9_])*!$",
    r"^(([a-z_.0-9]|\w)*)*!$",
    r"^(.|\w)*!$",
    r"^(\w|[a-z.])*[!?]$",
)
WORST = r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)\7[!?]"


@pytest.mark.parametrize(
    "text",
    [
        "mlp",
        r"\.(q|k)_proj$",
        r"layers\.1?\d\.",
        "^(?!lm)",
        r"(?P<n>\d)\.(?P=n)?",
        "(?i)MLP",
        "a{2}",
    ],
)
def test_a_pattern_finds_what_re_finds(text):
    assert [NamePattern(text).search(n) for n in NAMES] == [bool(re.search(text, n)) for n in NAMES]


@pytest.mark.parametrize("text", [*SLOW, WORST])
def test_a_pattern_that_takes_for_ever_is_refused_soon(text):
    started = time.monotonic()
    try:
        found = [NamePattern(text).search(name) for name in (*NAMES, "a." * 200)]
        assert found == [False] * 5  # the engine knows a faster way
    except UsageError as error:
        assert "takes longer than 0.5 s" in str(error)
    assert time.monotonic() - started < 30


def test_the_worst_of_them_is_refused_wherever_a_pattern_is_taken():
    for take in (
        NamePattern,
        lambda text: MethodOptions(targets=(text,)),
        lambda text: MethodOptions(ignore=("mlp", text)),
        lambda text: Pgsvd(groups=(text,)),
    ):
        with pytest.raises(UsageError, match="takes longer than"):
            take(WORST)


@pytest.mark.parametrize("text", ["(", "*", "[a", "(?P<a>", "a{99999999999999}", "(" * 5000])
def test_what_is_no_regular_expression_is_refused(text):
    with pytest.raises(UsageError, match="is not a regular expression"):
        NamePattern(text)
