"""Write a database of the package, profiler/data/DEVICE.parquet, from tables of measurements.

    python benchmarks/ship_database.py FILE… [--energy FILE] --output profiler/data/DEVICE.parquet

FILE is what `autotune db export` wrote; of a layer that several have, the first counts. `--energy`
gives the layers that it has too what they take of energy and power, and nothing else. The output
says who may use it, who made it and how; the sums beside it are renewed.
"""

from __future__ import annotations

import argparse
import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from autotune.core.files import file_sha256, write_text_whole
from autotune.core.layers import LayerShape
from autotune.core.types import Fingerprint
from autotune.core.version import __version__
from autotune.profiler.database.records import Measurement, Row, measured_rows, timestamp
from autotune.profiler.database.rows import OPTIONAL, kind_of
from autotune.profiler.database.table_file import FileFacts, read_table, write_table
from autotune.profiler.sources.shipped import SUMS

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
Points = dict[LayerShape, Measurement]
Tables = dict[str, tuple[Fingerprint, Points]]


def main() -> None:
    """Write the file and the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--energy", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    tables = read(options.files)
    if options.energy:
        counted = with_energy(tables, read([options.energy]))
        print(f"{counted} points have an energy")
    write_table(
        options.output,
        [
            (fingerprint, sorted(points.values(), key=order))
            for fingerprint, points in ranked(tables)
        ],
        facts=facts(),
    )
    print(f"{sum(len(points) for _, points in tables.values())} points in {options.output}")
    renew_sums(options.output.parent)


def read(files: list[Path]) -> Tables:
    """The points of all files by the ids of their fingerprints."""
    found: Tables = {}
    for file in files:
        for fingerprint, rows in read_table(file):
            _, points = found.setdefault(fingerprint.id, (fingerprint, {}))
            for row in measured_rows(rows):
                points.setdefault(row.shape, row)
    return found


def with_energy(tables: Tables, counted: Tables) -> int:
    """Give points the energy and power of others of the same layer; how many got them."""
    count = 0
    for key, (_, others) in counted.items():
        points = tables[key][1]
        for shape in points.keys() & others.keys():
            values = {name: getattr(others[shape], name) for name in OPTIONAL}
            points[shape] = dataclasses.replace(points[shape], **values)
            count += values["energy_j"] is not None
    return count


def ranked(tables: Tables) -> list[tuple[Fingerprint, Points]]:
    """The tables in the order in which a file is read: by the record of the fingerprint."""
    return sorted(tables.values(), key=lambda table: str(table[0].to_json()))


def order(row: Row) -> tuple[Any, ...]:
    """Rows as a database sorts them."""
    shape = row.shape
    sizes = (shape.tokens, shape.in_features, shape.out_features, shape.rank)
    return (kind_of(shape), shape.dtype, *sizes, str(shape.form))


def facts() -> FileFacts:
    """What the file says of itself: licence and author are the project's."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return FileFacts(
        program=f"lowrank-autotune {__version__}",
        created_at=timestamp(),
        license=project["license"],
        author=", ".join(author["name"] for author in project["authors"]),
        script="benchmarks/device_database.py, benchmarks/ship_database.py",
    )


def renew_sums(folder: Path) -> None:
    """Write the sha256 of every database in the folder, as `sha256sum` does."""
    files = sorted(folder.glob("*.parquet"))
    write_text_whole(
        folder / SUMS, "".join(f"{file_sha256(file)}  {file.name}\n" for file in files)
    )


if __name__ == "__main__":
    main()
