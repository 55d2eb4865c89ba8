"""Parquet files of measurements say what they are, and newer ones are refused."""

import dataclasses
import json

import pandas as pd
import pyarrow
import pytest
from pyarrow import parquet

from autotune.core.errors import UsageError
from autotune.core.version import __version__
from autotune.profiler.database.cells import fits_whole, parse_cell
from autotune.profiler.database.exchange import export_table, import_table
from autotune.profiler.database.rows import COLUMNS, SCHEMA, as_row
from autotune.profiler.database.table_file import (
    METADATA_KEY,
    FileFacts,
    read_facts,
    read_table,
    write_table,
)
from tests.profiler.points import FINGERPRINT, point

FACTS = FileFacts(
    program="lowrank-autotune 9",
    created_at="2026-11-29T00:00:00+00:00",
    license="Apache-2.0",
    author="somebody",
    script="some.py",
)
ROWS = [point(0), point(16, energy_j=0.25), point(32, error="crash")]


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "table.parquet"
    write_table(found, [(FINGERPRINT, ROWS)], facts=FACTS)
    return found


def say(path, **changes):
    """Write the file again, with other facts."""
    table = parquet.read_table(path)
    facts = json.loads(table.schema.metadata[METADATA_KEY]) | changes
    parquet.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(facts)}), path)


def test_a_file_says_what_it_is(path):
    assert read_facts(path) == FACTS
    assert FACTS.schema == SCHEMA
    assert read_table(path) == [(FINGERPRINT, ROWS)]


def test_an_export_names_the_program_and_the_schema(sqlite_database, tmp_path):
    path = tmp_path / "table.parquet"
    export_table(sqlite_database, path)
    facts = read_facts(path)
    assert (facts.schema, facts.program) == (SCHEMA, f"lowrank-autotune {__version__}")
    assert facts.created_at.startswith("20")
    assert (facts.license, facts.author, facts.script) == ("", "", "")


def test_a_newer_file_is_refused_and_an_older_one_is_taken_over(path, sqlite_database):
    say(path, schema=SCHEMA + 1)
    for read in (read_facts, read_table, lambda one: import_table(sqlite_database, one)):
        with pytest.raises(UsageError) as caught:
            read(path)
        assert str(caught.value) == (
            f"{path} holds points of schema {SCHEMA + 1}, and this version of autotune knows "
            f"those up to {SCHEMA}; update lowrank-autotune to read it"
        )
    assert sqlite_database.fingerprints() == {}
    say(path, schema=SCHEMA - 1, from_a_later_program="x")
    assert read_facts(path) == dataclasses.replace(FACTS, schema=SCHEMA - 1)
    assert import_table(sqlite_database, path) == len(ROWS)


def test_a_file_that_says_nothing_is_read_too(path):
    frame = pd.read_parquet(path)
    frame.drop(columns=["form", "energy_j", "power_w"]).to_parquet(path)
    assert read_facts(path) == FileFacts(schema=0)
    assert read_table(path) == [(FINGERPRINT, [point(0), point(16), ROWS[2]])]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": "six"}', '{"schema": null}'])
def test_metadata_that_are_no_facts_are_refused(path, text):
    table = parquet.read_table(path)
    parquet.write_table(table.replace_schema_metadata({METADATA_KEY: text}), path)
    with pytest.raises(UsageError, match="its metadata are no facts about one"):
        read_table(path)


def test_only_wanted_fingerprints_are_read(path):
    other = dataclasses.replace(FINGERPRINT, dtype="bf16")
    write_table(path, [(other, [point(8)]), (FINGERPRINT, ROWS)], facts=FACTS)
    assert read_table(path, wanted=lambda one: one.dtype == "bf16") == [(other, [point(8)])]
    assert len(read_table(path)) == 2


def test_an_index_that_pandas_kept_is_no_column_and_a_doubled_column_is_refused(path):
    pd.read_parquet(path).set_index(pd.Index([7, 5, 9])).to_parquet(path)
    assert "__index_level_0__" in parquet.read_schema(path).names
    assert read_table(path) == [(FINGERPRINT, ROWS)]
    table = parquet.read_table(path)
    twice = pyarrow.Table.from_arrays(
        [*table.columns, table.column("rank")], names=[*table.column_names, "rank"]
    )
    parquet.write_table(twice, path)
    with pytest.raises(UsageError, match="a column is there twice"):
        read_table(path)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_that_needs_no_look_is_one_whose_cells_stay(name):
    own = [as_row(row)[name] for row in ROWS]
    assert fits_whole(name, own)
    odd = [None, "", "x", 0, -1, 2**31, 1.5, 0.0, float("nan"), float("inf"), True, b"x"]
    taken = [value for value in odd if fits_whole(name, [*own, value])]
    assert all(parse_cell(name, value) == value for value in taken)
    assert len(taken) < len(odd)
