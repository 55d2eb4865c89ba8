"""Conformance suites: one class of tests for every abstract class of this package.

Subclass a suite as `class TestMine(BackendSuite)`, give the one fixture that it names, and pytest
runs the contract against your implementation. The docstring of each test is the sentence of the
contract that it checks. The suites need pytest: `pip install 'lowrank-autotune[test]'`.
"""

from __future__ import annotations

import pytest

_SUITES = (
    "allocator",
    "backend",
    "executor",
    "factorizer",
    "metric",
    "precision",
    "predictor",
    "store",
)
# Plain assertions then show what they compared, as they do in test modules.
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in _SUITES))
