"""What is wrong with a request, in the words and with the names that rules of options use.

pydantic reports a location and its own wording; a caller reads `spec.search.trials must be 0 to
100000, got -1`, whether a bound of the model or a rule of the option was broken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autotune.core.options import Entry, broken_rule, entries, nested
from autotune.core.options_json import flat_entries
from autotune.service.specs import KINDS

_LONG = 100
_KINDS_OF_VALUE = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "an object",
    "model": "an object",
}
# The message names what it is about.
_WHOLE = ("given_twice", "value_error", "assertion_error")


def refusal(error: Mapping[str, Any]) -> dict[str, str]:
    """Where an error of pydantic is, as the caller wrote it, and the whole sentence."""
    kind, path = _place(error["loc"])
    entry = _entry(kind, path)
    where = _spelled(path, entry)
    return {
        "where": _printable(where),
        "message": _printable(_sentence(error, where, kind=kind, entry=entry)),
    }


def _place(loc: Sequence[str | int]) -> tuple[str | None, list[str]]:
    """The kind of job whose body it is in, and the path without what FastAPI puts before it."""
    path = [str(part) for part in loc]
    if len(path) > 1 and path[0] in ("body", "query", "path", "header", "cookie"):
        in_job = path[0] == "body" and len(path) > 2 and path[1] in KINDS
        return (path[1], path[2:]) if in_job else (None, path[1:])
    return None, path


def _entry(kind: str | None, path: Sequence[str]) -> Entry | None:
    """The option at a path of a job's body; an element of a list belongs to its option."""
    if kind is None or path[:1] != ["spec"]:
        return None
    name = ".".join(part for part in path[1:] if not part.isdigit())
    schema = KINDS[kind].schema
    by_path = {entry.path: entry for entry in entries(schema)}
    return by_path.get(name) or flat_entries(schema).get(name)


def _spelled(path: Sequence[str], entry: Entry | None) -> str:
    """The path; a flat name of an older request stands alone, as in the rules of options."""
    flat = entry is not None and path[1] == entry.option.flat != entry.path
    return ".".join(path[1:] if flat else path)


def _sentence(
    error: Mapping[str, Any], where: str, *, kind: str | None, entry: Entry | None
) -> str:
    what, facts = str(error["type"]), error.get("ctx", {})
    if what in _WHOLE:
        return str(error["msg"])
    if what == "json_invalid":
        return f"the body is not valid JSON: {facts.get('error', 'it cannot be read')}"
    if what.startswith("union_tag"):
        return f"{_sub(where, 'kind')} must be one of {', '.join(KINDS)}"
    if what == "missing":
        return f"{where} must be given"
    if what == "extra_forbidden":
        return f"unknown option {where[:_LONG]!r}{_known(kind, where)}"
    rule = _rule_of_option(error, entry) or _rule(what, facts)
    if rule is None:
        return f"{where}: {error['msg']}"
    # Headers may hold a key, which is not repeated.
    given = "" if error["loc"][0] in ("header", "cookie") else _given(error.get("input"))
    return f"{where} {rule}{given}"


def _sub(where: str, name: str) -> str:
    return name if where in ("", "body") else f"{where}.{name}"


def _rule_of_option(error: Mapping[str, Any], entry: Entry | None) -> str:
    """The option's own rule that the value breaks; empty if it is only pydantic's that it does."""
    if entry is None:
        return ""
    value, in_list = error.get("input"), isinstance(error["loc"][-1], int)
    return broken_rule(entry, (value,) if in_list else value)


def _rule(what: str, facts: Mapping[str, Any]) -> str | None:
    """The rule that an error of pydantic is of; None where there is no wording of ours."""
    if what == "greater_than_equal":
        return f"must be {facts['ge']:,} or more"
    if what == "less_than_equal":
        return f"must be at most {facts['le']:,}"
    if what == "literal_error":
        return f"must be one of {facts['expected']}"
    if what in ("string_too_long", "too_long"):
        unit = "characters" if what == "string_too_long" else "entries"
        return f"must have at most {facts['max_length']} {unit}"
    if what in ("string_too_short", "too_short"):
        unit = "characters" if what == "string_too_short" else "entries"
        return f"must have at least {facts['min_length']} {unit}"
    if what == "string_pattern_mismatch":
        control = "\\x00-\\x1f" in facts["pattern"]
        rule = "have no control characters" if control else f"match {facts['pattern']}"
        return f"must {rule}"
    found = _KINDS_OF_VALUE.get(what.partition("_")[0])
    return None if found is None else f"must be {found}"


def _known(kind: str | None, where: str) -> str:
    """What an object of a job's options may hold."""
    above = where.split(".")[:-1]
    if kind is None or above[:1] != ["spec"] or len(above) > 2:
        return ""
    schema = KINDS[kind].schema
    prefix = f"{above[1]}." if len(above) == 2 else ""
    own = {e.path.removeprefix(prefix) for e in KINDS[kind].options if e.path.startswith(prefix)}
    names = {name for name in own if "." not in name} | (set() if prefix else set(nested(schema)))
    names |= {"run"} if KINDS[kind].of_a_run and not prefix else set()
    return f"; known are {', '.join(sorted(names))}" if names else ""


def _given(value: Any) -> str:
    """A short plain value; long ones, and what is no number and no text, are not repeated."""
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**15):
        return f", got {value}"
    return f", got {value!r}" if isinstance(value, str) and len(value) <= _LONG else ""


def _printable(text: str) -> str:
    """Names that the caller made up may be long, or no Unicode."""
    return text[:1000].encode("utf-8", "backslashreplace").decode()
