"""A allocator that breaks its contract."""

import pytest

from autotune.search.allocators.exact import Exact
from autotune.testing.suites.allocator import AllocatorSuite


class Greedy(Exact):
    def allocate(self, question):
        question.evidence.subject.model.requires_grad_(True)
        everything = {site.name: question.at_keep_ratio(site, 2) for site in question.sites}
        return question.allocation(everything, solver="greedy")


class TestGreedy(AllocatorSuite):
    @pytest.fixture
    def make_allocator(self):
        return Greedy
