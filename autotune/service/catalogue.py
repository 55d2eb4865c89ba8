"""Descriptions of devices and databases for the HTTP interface and the pages."""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa

from autotune.devices.detect import present_devices
from autotune.devices.specs import device_file, find_device
from autotune.profiler.database.schema import MEASUREMENT
from autotune.profiler.sources.known import list_devices
from autotune.service.latencies import Latencies


def describe_devices() -> list[dict[str, Any]]:
    """Every device: name, title, kind, whether it is on this machine, and what predicts it."""
    return [
        {
            "name": known.spec.name,
            "title": known.spec.title,
            "kind": known.spec.kind,
            "here": known.here,
            "predicted_from": known.predicted_from,
        }
        for known in list_devices()
    ]


def describe_device(latencies: Latencies, name: str) -> dict[str, Any]:
    """A device's specification, its TOML file with sources, and its database coverage.

    Raises:
        UsageError: no such device.
    """
    spec = find_device(name)
    return {
        "spec": dataclasses.asdict(spec),
        "sheet": device_file(spec.name),
        "measured": [row for row in describe_database(latencies) if row["device"] == spec.name],
    }


def describe_database(latencies: Latencies) -> list[dict[str, Any]]:
    """One entry for each fingerprint: points, sizes, dates, quality and the last drift check."""
    m = MEASUREMENT.c
    failed = sa.func.count(m.error)
    query = sa.select(
        m.fingerprint_id,
        sa.func.count().label("points"),
        failed.label("failed"),
        sa.func.sum(m.converged).label("converged"),
        sa.func.sum(m.windows).label("windows"),
        sa.func.sum(m.disturbed_windows).label("disturbed_windows"),
        sa.func.min(m.tokens).label("least_tokens"),
        sa.func.max(m.tokens).label("most_tokens"),
        sa.func.min(m.measured_at).label("first_at"),
        sa.func.max(m.measured_at).label("last_at"),
    ).group_by(m.fingerprint_id)
    store = latencies.store()
    fingerprints, checks = store.fingerprints(), store.last_checks()
    with store.transaction() as connection:
        rows = [dict(row._mapping) for row in connection.execute(query)]
    # A shared database also covers other machines' processors, which cannot be checked here.
    here = {device.reported_name for device in present_devices()}
    found = []
    for row in rows:
        key = row["fingerprint_id"]
        last = checks.get(key)
        drift = last.to_json() if last else None
        present = fingerprints[key].device_name in here
        found.append({**row, **fingerprints[key].to_json(), "drift": drift, "present": present})
    return sorted(found, key=lambda row: (row["device"], row["fingerprint_id"]))
