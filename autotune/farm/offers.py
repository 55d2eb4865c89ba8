"""What the workers of a farm offer; any of them may claim any device, and any number of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from autotune.devices.specs import known_devices
from autotune.farm.answers import cut
from autotune.farm.base import FarmDevice

RESOURCE = "device:"
_MOST_GPUS = 64  # of one kind in one host; a host's processors are one device
_LOG = logging.getLogger(__name__)


def is_worker(node: Mapping[str, Any]) -> bool:
    """Whether a node of the cluster is a worker that is alive."""
    return bool(node["Alive"]) and any(name.startswith(RESOURCE) for name in node["Resources"])


def offered_devices(nodes: Iterable[Mapping[str, Any]], noted: set[str]) -> tuple[FarmDevice, ...]:
    """The devices of the workers that are alive, as many as a host may have.

    Those that are not known here are passed over, with a warning unless they are in `noted`, to
    which they are added.
    """
    specs, counts = known_devices(), Counter[str]()
    for node in filter(is_worker, nodes):
        for resource, count in node["Resources"].items():
            if not resource.startswith(RESOURCE) or count < 1:
                continue
            name = resource.removeprefix(RESOURCE)
            if name in specs:
                counts[name] += int(min(count, 1 if specs[name].kind == "cpu" else _MOST_GPUS))
            elif name not in noted:
                noted.add(name)
                _LOG.warning(
                    "a worker of the farm offers the device %r, which is not known here and will "
                    "not be used; to use it, put its specification sheet on this host too",
                    cut(name),
                )
    return tuple(
        FarmDevice(name=name, reported_name=specs[name].title, count=count)
        for name, count in sorted(counts.items())
    )
