"""Whether a result is still of use: the only place that decides it.

The quality figure of the compressed model is compared with the dense model's, by metric. Perplexity
and everything else that counts nats have the same two limits, so that it does not matter which of
them is shown; docs/quality.md gives the reasons for the others.
"""

from __future__ import annotations

import enum
import math

# The metric that stands for a figure that overflows: the mean loss itself, in nats.
LOSS = "loss"
# Where a warning begins, and where the quality is lost.
_PERPLEXITY = (1.05, 2.0)  # compressed / dense
_HIGHER_IS_BETTER = {  # the dense model has 1
    "cosine": (0.98, 0.9),
    "exp(-KL to dense)": (0.95, 0.8),
    "R2 to dense": (0.96, 0.8),
}
_OTHERS = (0.98, 0.9)  # the better of both figures is 1


class QualityVerdict(enum.StrEnum):
    """Whether the compressed model does what the dense one did, on held-out data."""

    KEPT = "kept"
    REDUCED = "reduced"
    LOST = "lost"

    @classmethod
    def of(
        cls, metric: str, *, dense: float, compressed: float, higher_is_better: bool
    ) -> QualityVerdict:
        """Compare the figure of the compressed model with that of the dense one."""
        if metric == LOSS:
            change, limits = compressed - dense, tuple(map(math.log, _PERPLEXITY))
        elif metric in _HIGHER_IS_BETTER:
            change, limits = -compressed, tuple(-limit for limit in _HIGHER_IS_BETTER[metric])
        elif not higher_is_better:
            change, limits = _ratio(compressed, dense), _PERPLEXITY
        else:
            change, limits = -_ratio(compressed, dense), tuple(-limit for limit in _OTHERS)
        if change > limits[1]:
            return cls.LOST
        return cls.REDUCED if change > limits[0] else cls.KEPT


def limits_text(metric: str, *, higher_is_better: bool) -> str:
    """The limit beyond which the quality is lost, in words."""
    if metric == LOSS:
        return f"more than {math.log(_PERPLEXITY[1]):.2f} above the dense model"
    if metric in _HIGHER_IS_BETTER:
        return f"below {_HIGHER_IS_BETTER[metric][1]:g}"
    if not higher_is_better:
        return f"more than {_PERPLEXITY[1]:g} times that of the dense model"
    return f"below {_OTHERS[1]:g} of the dense model"


def _ratio(compressed: float, dense: float) -> float:
    if dense == 0.0:
        return 1.0 if compressed == 0.0 else math.copysign(math.inf, compressed)
    return compressed / dense
