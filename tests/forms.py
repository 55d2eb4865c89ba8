"""Forms and plans written by rank, as most tests do."""

from autotune.core.forms import DENSE, low_rank


def form_of(rank):
    """The plain pair of `rank`, or the dense form for None."""
    return low_rank(rank) if rank else DENSE


def plan_of(ranks):
    """The plan with these ranks by name; None is dense."""
    return {name: form_of(rank) for name, rank in ranks.items()}
