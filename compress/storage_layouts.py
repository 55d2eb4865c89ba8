"""Storage layouts of factors by name, and their sizes; light: a request is checked by it early."""

from __future__ import annotations

from autotune.core.errors import UsageError

STORAGES = ("fp32", "fp16", "bf16", "remap8")


def stored_bits(storage: str, *, in_features: int, out_features: int, rank: int) -> int:
    """Bits of a site's two factors.

    remap8 is 16·r·max(N, K) + 32·r (Dobi-SVD §3.4): 8 bits for the first min(N, K) rows of the
    longer factor and for the shorter one, 16 for the longer's tail, two fp16 scales a rank.

    Raises:
        UsageError: an unknown storage (the known ones are listed).
    """
    if storage not in STORAGES:
        raise UsageError(f"unknown storage {storage!r}; known are {', '.join(STORAGES)}")
    if storage == "remap8":
        return 16 * rank * max(in_features, out_features) + 32 * rank
    return (32 if storage == "fp32" else 16) * rank * (in_features + out_features)
