"""Patterns mean what they mean in `re`, and none keeps the program for long."""

import re
import time
from types import SimpleNamespace

import pytest

from autotune.core import patterns
from autotune.core.errors import UsageError
from autotune.core.patterns import NamePatterns, SearchTime, check_pattern

NAMES = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.11.mlp.down_proj",
    "encoder.layer.3.attention.output.dense",
    "lm_head",
    "A",
]


@pytest.mark.parametrize(
    "text",
    [
        "mlp",
        r"\.(q|k|v)_proj$",
        r"layers?\.\d+\.",
        r"layers\.1\d\.",
        "^(?!.*lm_head).*$",
        r"(.)\1",
        "(?<=self_)attn",
        "[^a-z._0-9]",
        "(?i)A$",
        "a{2}|e{1,3}",
        "",
        "é",
    ],
)
def test_they_find_what_re_finds(text):
    check_pattern(text, SearchTime())
    found_by = NamePatterns(["nothing", text])
    for name in NAMES:
        found = re.search(text, name) is not None
        assert found_by.match(name) is found
        assert found_by.first(name) == (1 if found else None)


@pytest.mark.parametrize("text", ["(", "[", "*", "a{999999999}", "(?P<a", "\\", "(?<=a+b"])
def test_what_is_none_is_refused(text):
    with pytest.raises(UsageError, match=r"is not a regular expression|repeats"):
        check_pattern(text, SearchTime())
    with pytest.raises(UsageError):
        NamePatterns([text])


@pytest.mark.parametrize(
    "text",
    [
        "^(([a-z0-9_.])+)+!$",
        "^(([a-z0-9_.])+)+[^a-z0-9_.]$",
        r"(a|[a-z0-9_.])+(x|[a-z0-9_.])+(y|[a-z0-9_.])*[A-Z]$",
        r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)\8[A-Z]",
        r"^(.|\w)*[A-Z]$",
        "^(.|\\w)*!$",
        "(?1)(a|.(?1)?)+[A-Z]",
        "((((((a{50}){50}){50}){50}){50}){50}){50}",
        "((((((a{0,50}){0,50}){0,50}){0,50}){0,50}){0,50}){0,50}!",
        "(" * 600 + "a" + ")" * 600,
        "(?:" * 100 + "a" + ")+" * 100 + "!",
        "a" * 100_000,
    ],
)
def test_none_takes_long(text):
    """Minutes to for ever by `re`; the bound here is far above what a busy machine needs."""
    started_s = time.process_time()
    try:
        check_pattern(text, SearchTime())
        found_by = NamePatterns([text])
        for i in range(100):
            found_by.match(f"model.layers.{i}.self_attn.q_proj" * 4)
    except UsageError as error:
        assert len(str(error)) < 1000
    assert time.process_time() - started_s < 30.0


def test_the_time_is_that_of_all_names_together():
    found_by = NamePatterns([r"^(.|\w)*[A-Z]$"])
    found_by._time = SearchTime(0.2)
    with pytest.raises(UsageError, match="takes too long"):
        for i in range(10_000):
            found_by.match(f"model.layers.{i}.self_attn")


def test_patterns_that_are_given_together_have_one_time(monkeypatch):
    """By a clock that stands still but for the searches: each takes a tenth of a second."""
    now_s, limits_s = [0.0], []

    class Slow:
        def search(self, name, *, timeout, concurrent):
            limits_s.append(timeout)
            now_s[0] += min(timeout, 0.1)
            if timeout < 0.1:
                raise TimeoutError

    monkeypatch.setattr(patterns, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    monkeypatch.setattr(patterns, "_compiled", lambda text: Slow())
    limit = SearchTime(0.35)
    check_pattern("the first", limit)
    with pytest.raises(UsageError, match="'the second' takes too long"):
        check_pattern("the second", limit)
    assert limits_s == pytest.approx([0.35, 0.25, 0.15, 0.05])


def test_an_ordinary_pattern_is_searched_for_where_the_time_is_used_up():
    check_pattern(r"layers?\.\d+\.", SearchTime(-1.0))
