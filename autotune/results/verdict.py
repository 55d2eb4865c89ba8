"""Whether a budget is met: the only place that decides it.

A latency is compared as its ratio to the dense latency of the same measurement, with the 95 %
interval of that ratio, so an absolute limit is divided by that dense latency first
(`latency_limit`). The other resources of a budget are counted exactly and hold for every plan that
the solver returns, so they do not enter.

With a latency budget L:

- met: the whole interval is at or below L;
- missed: the whole interval is above L;
- undecided: the interval contains L, so another measurement could come out on either side.

Without a latency budget the question is whether the model is not slower than the dense one: L = 1.
There, an interval that contains 1 also counts as met when the ratio itself is at most 1 and the
interval ends at most 2 % above it: equal speed is what such a request expects where nothing is
gained, and no measurement proves equality. The dense model itself, handed out, is always met there.

A predicted ratio is compared in the same way, with the 90 % interval of the prediction. Without a
latency budget it is judged by its value alone: nobody asked for a latency, and nothing is claimed
to be verified.
"""

from __future__ import annotations

import enum

from autotune.core.quantities import parse_quantity

# How far above 1 the interval of a ratio of at most 1 may end without a latency budget.
_EQUAL = 0.02


class Verdict(enum.StrEnum):
    """Whether the latency meets its limit, as far as the measurement can tell."""

    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"

    @property
    def exit_code(self) -> int:
        """Exit code of a command that ends with this verdict: 0, 1 or 5."""
        return {Verdict.MET: 0, Verdict.MISSED: 1, Verdict.UNDECIDED: 5}[self]

    @property
    def within_budget(self) -> bool | None:
        """True, False, or None where the measurement does not decide."""
        return {Verdict.MET: True, Verdict.MISSED: False, Verdict.UNDECIDED: None}[self]

    @classmethod
    def of(
        cls,
        limit_ratio: float | None,
        ratio: float,
        *,
        ratio_low: float,
        ratio_high: float,
        is_dense: bool = False,
    ) -> Verdict:
        """Compare a measured ratio to the dense latency, and its 95 % interval, with a limit.

        Args:
            limit_ratio: Largest ratio that the latency budget allows; None without such a budget.
            ratio: Compressed latency / dense latency.
            ratio_low: Lower end of the interval.
            ratio_high: Upper end of the interval.
            is_dense: Whether the dense model, in its own dtype, was timed against itself.
        """
        if limit_ratio is None and is_dense:
            return cls.MET
        limit = 1.0 if limit_ratio is None else limit_ratio
        if ratio_high <= limit:
            return cls.MET
        if ratio_low > limit:
            return cls.MISSED
        if limit_ratio is None and ratio <= 1.0 and ratio_high <= 1.0 + _EQUAL:
            return cls.MET
        return cls.UNDECIDED

    @classmethod
    def of_prediction(
        cls, limit_ratio: float | None, ratio: float, *, ratio_low: float, ratio_high: float
    ) -> Verdict:
        """Compare a predicted ratio and its 90 % interval with a limit, arguments as in `of`."""
        if limit_ratio is None:
            return cls.of(None, ratio, ratio_low=ratio, ratio_high=ratio)
        return cls.of(limit_ratio, ratio, ratio_low=ratio_low, ratio_high=ratio_high)


def latency_limit(text: str | None, dense_latency_s: float) -> float | None:
    """The ratio to the dense latency that a latency budget such as `20ms` or `0.85x` allows.

    Args:
        text: The budget as written; None without a latency budget.
        dense_latency_s: Dense latency, in seconds, of the measurement that is judged.

    Returns:
        The ratio, or None without a latency budget.

    Raises:
        QuantityError: `text` is not a latency.
    """
    if text is None:
        return None
    quantity = parse_quantity(text, "latency")
    return quantity.value if quantity.relative else quantity.value / dense_latency_s
