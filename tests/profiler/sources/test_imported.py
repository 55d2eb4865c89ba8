"""Others' GEMM tables: read from the installed package, cleaned, kept apart by stack."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from autotune.core.errors import UsageError
from autotune.devices.specs import known_devices
from autotune.profiler.database.audit import find_problems
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.sources import aiconfigurator as imported
from autotune.profiler.sources.aiconfigurator import (
    ImportedTable,
    consensus,
    import_gemms,
    imported_devices,
    read_tables,
)


def test_every_system_is_a_known_device():
    assert set(imported_devices()) == set(imported.SYSTEMS)
    assert set(imported_devices()) <= set(known_devices())


@pytest.mark.parametrize("device", imported_devices())
def test_a_table_is_clean(device):
    tables = read_tables(device)
    assert len({table.stack for table in tables}) == len(tables) >= 2
    rows = consensus(tables)
    assert 30_000 < len(rows) < 60_000
    assert not rows.duplicated(["m", "k", "n"]).any()
    assert (rows[["m", "k", "n"]] > 0).all().all()
    assert (rows[["k", "n"]] % imported.MULTIPLE == 0).all().all()
    assert rows["latency_s"].between(1e-6, 10).all()
    assert "aiconfigurator-core" in tables[0].source
    # Nothing is faster than the sheet allows, but for what stays in the cache.
    spec = known_devices()[device]
    flops = 2.0 * rows["m"] * rows["k"] * rows["n"]
    assert (flops / rows["latency_s"] < 1.1 * spec.peak_flops["bf16"]).mean() > 0.999


def table(stack, seconds, device="mine"):
    rows = pd.DataFrame({"m": [1, 2, 4], "k": 32, "n": 64, "latency_s": seconds})
    return ImportedTable(device=device, stack=stack, stack_version="1", dtype="bf16", rows=rows)


def test_the_consensus_is_the_median_of_the_stacks():
    tables = [
        table("a", [1e-5, 2e-5, 3e-5]),
        table("b", [3e-5, 2e-5, 9e-5]),
        table("c", [2e-5, 5e-5, 1e-5]),
    ]
    rows = consensus(tables)
    assert rows["latency_s"].tolist() == [2e-5, 2e-5, 3e-5]
    assert rows["stacks"].tolist() == [3, 3, 3]


def test_what_one_stack_alone_timed_is_put_at_the_pace_of_all():
    """Else the median jumps between numbers of tokens that all timed and those that one did."""
    seconds = np.array([1e-5, 2e-5, 3e-5])
    slow, fast = table("slow", 1.1 * seconds), table("fast", seconds / 1.1)
    alone = replace(fast, rows=fast.rows.iloc[:2])
    rows = consensus([slow, alone])
    assert rows["latency_s"].tolist() == pytest.approx([*seconds], rel=0.01)
    assert rows["stacks"].tolist() == [2, 2, 1]


def test_a_stack_that_disagrees_with_the_others_is_left_out():
    good = [table(name, [1e-5, 2e-5, 3e-5]) for name in ("a", "b")]
    wild = table("c", [2e-5, 4e-5, 6e-5])
    assert imported._agreeing([*good, wild]) == good
    assert imported._agreeing([good[0], wild]) == [good[0], wild]  # who is right, nobody knows


def test_what_cannot_be_a_measurement_is_dropped():
    raw = pd.DataFrame(
        {
            "gemm_dtype": ["bfloat16"] * 6 + ["fp8"],
            "m": [0, 1, 1, 1, 2, 2, 3],
            "k": [32, 33, 32, 32, 32, 32, 32],
            "n": [32, 32, 32, 32, 32, 32, 32],
            "latency": [1.0, 1.0, 1.0, 3.0, np.inf, -1.0, 1.0],
        }
    )
    rows = imported.clean_products(raw, ("bfloat16",))
    assert rows.to_numpy().tolist() == [[1, 32, 32, 2e-3]]


def test_the_database_keeps_stacks_apart(tmp_path, monkeypatch):
    """On the first thousand shapes of every stack, for time."""
    short = [replace(t, rows=t.rows.head(1000)) for t in read_tables("a100-sxm")]
    monkeypatch.setattr(imported, "read_tables", lambda device, dtype: short)
    with LatencyDatabase(tmp_path / "db.sqlite") as database:
        count = import_gemms(database, "a100-sxm")
        again = import_gemms(database, "a100-sxm")
        assert count == again
        found = database.fingerprints()
        assert {f.backend.partition(":")[0] for f in found.values()} == {"imported"}
        kept = {key: database.measurements(key) for key in found}
        assert sum(map(len, kept.values())) == count  # the second import added nothing
        assert find_problems(database) == []
    row = next(iter(kept.values()))[0]
    assert row.shape.rank == 0
    assert row.rounds == 0


def test_a_device_without_tables_is_refused(tmp_path):
    with LatencyDatabase(tmp_path / "db.sqlite") as database:
        with pytest.raises(UsageError, match="no bf16 table of t4"):
            import_gemms(database, "t4")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(imported, "package_folder", lambda: None)
    assert imported_devices() == ()
    with pytest.raises(UsageError, match="pip install aiconfigurator-core"):
        read_tables("a100-sxm")
