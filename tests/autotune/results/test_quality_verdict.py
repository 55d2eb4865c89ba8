"""Where a warning begins and where the quality is lost, for every figure."""

import math

import pytest

from autotune.compress.tasks import TASKS
from autotune.compress.tasks.distances import Choice, Independent, Score
from autotune.results.quality_verdict import QualityVerdict, limits_text

KEPT, REDUCED, LOST = QualityVerdict


@pytest.mark.parametrize(
    ("metric", "dense", "compressed", "higher", "expected"),
    [
        ("perplexity", 4.0, 4.19, False, KEPT),
        ("perplexity", 4.0, 4.21, False, REDUCED),
        ("perplexity", 4.0, 7.9, False, REDUCED),
        ("perplexity", 3.8734, 70.7567, False, LOST),
        ("perplexity", 4.0, 3.0, False, KEPT),
        ("loss", 17364.0, 17364.04, False, KEPT),
        ("loss", 17364.0, 17364.5, False, REDUCED),
        ("loss", 17364.0, 17365.0, False, LOST),
        ("exp(KL to dense)", 1.0, 1.04, False, KEPT),
        ("exp(KL to dense)", 1.0, 2.1, False, LOST),
        ("cosine", 1.0, 0.981, True, KEPT),
        ("cosine", 1.0, 0.976, True, REDUCED),
        ("cosine", 1.0, 0.89, True, LOST),
        ("cosine", 1.0, -1.0, True, LOST),
        ("exp(-KL to dense)", 1.0, 0.96, True, KEPT),
        ("exp(-KL to dense)", 1.0, 0.85, True, REDUCED),
        ("exp(-KL to dense)", 1.0, 0.7, True, LOST),
        ("R2 to dense", 1.0, 0.97, True, KEPT),
        ("R2 to dense", 1.0, 0.9, True, REDUCED),
        ("R2 to dense", 1.0, -3.0, True, LOST),
        ("accuracy", 0.8, 0.79, True, KEPT),
        ("accuracy", 0.8, 0.75, True, REDUCED),
        ("accuracy", 0.8, 0.7, True, LOST),
        ("accuracy", 0.0, 0.0, True, KEPT),
        ("errors", 0.0, 0.1, False, LOST),
    ],
)
def test_the_limits(metric, dense, compressed, higher, expected):
    assert (
        QualityVerdict.of(metric, dense=dense, compressed=compressed, higher_is_better=higher)
        is expected
    )


def test_a_figure_and_the_loss_that_stands_for_it_agree():
    for rise in (0.01, 0.048, 0.05, 0.69, 0.7):
        losses = QualityVerdict.of("loss", dense=2.0, compressed=2.0 + rise, higher_is_better=False)
        dense, compressed = map(math.exp, (2.0, 2.0 + rise))
        assert losses is QualityVerdict.of(
            "perplexity", dense=dense, compressed=compressed, higher_is_better=False
        )


def test_every_task_has_limits_of_its_own_metric():
    metrics = {kind.metric for kind in TASKS.values() if hasattr(kind, "metric")}
    metrics |= {distance.metric for distance in (Choice, Independent, Score)}
    assert metrics == {
        "perplexity",
        "cosine",
        "exp(-KL to dense)",
        "exp(KL to dense)",
        "R2 to dense",
    }
    for metric in metrics:
        higher = metric not in ("perplexity", "exp(KL to dense)")
        assert limits_text(metric, higher_is_better=higher)
