"""The contract of `autotune.search.judges.JudgePool`, and of the judges that it hires."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from autotune.core.forms import Plan
from autotune.search.judges import Judge, JudgePool, Losses

_WAIT_S = 120.0


class Mortal:
    """A judge that is lost when it is asked for the `last` time: what runs it is closed."""

    def __init__(self, judge: Judge, last: int) -> None:
        self.judge, self.left = judge, last

    def ask(self, plan: Plan) -> Losses | None:
        """What the judge answers, as long as it lives."""
        self.left -= 1
        if self.left <= 0:
            self.judge.close()
        return self.judge.ask(plan)

    def close(self) -> None:
        """Close the judge that is wrapped."""
        self.judge.close()


class JudgePoolSuite:
    """Give the fixtures `make_pool`, `plans` (four or more) and `expected`, their losses.

    `make_pool` makes a new pool; the suite closes it. `relative` is by how much losses may differ.
    """

    relative = 1e-5

    @pytest.fixture
    def make_pool(self) -> Callable[[], JudgePool]:
        """A function that makes the pool under test."""
        raise NotImplementedError("give a fixture named make_pool")

    @pytest.fixture
    def plans(self) -> Sequence[Plan]:
        """Plans that differ in their losses."""
        raise NotImplementedError("give a fixture named plans")

    @pytest.fixture
    def expected(self) -> Sequence[Losses]:
        """The losses of `plans`, computed without the pool."""
        raise NotImplementedError("give a fixture named expected")

    @pytest.fixture
    def pool(self, make_pool: Callable[[], JudgePool]) -> Iterator[JudgePool]:
        """A pool, which is closed in the end."""
        with make_pool() as pool:
            yield pool

    def check(self, found: Mapping[int, Losses], expected: Sequence[Losses]) -> None:
        """Every plan was answered, with the expected losses."""
        assert set(found) == set(range(len(expected)))
        for index, losses in found.items():
            assert len(losses) == len(expected[index])
            for (ours, count), (theirs, items) in zip(losses, expected[index], strict=True):
                assert count == items
                assert ours == pytest.approx(theirs, rel=self.relative)

    def mortal(self, pool: JudgePool, *lives: int) -> list[Mortal]:
        """Let the first judges that the pool hires be lost after so many questions."""
        hire, left, hired = pool.hire, list(lives), list[Mortal]()

        def hire_mortal() -> Judge:
            hired.append(Mortal(hire(), left.pop(0) if left else 10**6))
            return hired[-1]

        pool.hire = hire_mortal  # type: ignore[method-assign]
        return hired

    def test_every_plan_has_one_answer(
        self, pool: JudgePool, plans: Sequence[Plan], expected: Sequence[Losses]
    ) -> None:
        """`losses` yields each plan's index once, with its (sum, count) of every batch."""
        found = list(pool.losses(plans))
        assert len(found) == len(plans)
        self.check(dict(found), expected)

    def test_no_plans_need_no_judge(self, pool: JudgePool) -> None:
        """Nobody is hired before there is something to judge."""
        hired = self.mortal(pool)
        assert pool.places >= 1
        assert list(pool.losses([])) == []
        assert hired == []

    def test_judges_are_kept(
        self, pool: JudgePool, plans: Sequence[Plan], expected: Sequence[Losses]
    ) -> None:
        """No more judges than places, whoever asks and how often."""
        hired = self.mortal(pool)
        for _ in range(2):
            self.check(dict(pool.losses(plans)), expected)
        assert 1 <= len(hired) <= pool.places

    def test_a_judge_that_dies_loses_no_plan(
        self, pool: JudgePool, plans: Sequence[Plan], expected: Sequence[Losses]
    ) -> None:
        """The plan that it was asked for goes to another judge, which is hired if need be."""
        hired = self.mortal(pool, *[2] * pool.places)
        self.check(dict(pool.losses(plans)), expected)
        assert any(judge.left <= 0 for judge in hired)
        self.check(dict(pool.losses(plans)), expected)

    def test_judges_that_never_answer_take_their_places_along(
        self, pool: JudgePool, plans: Sequence[Plan]
    ) -> None:
        """Plans that no living judge answered are left out, and nobody waits for such again."""
        hired = self.mortal(pool, *[1] * 99)
        for _ in range(2 + pool.places):
            assert list(pool.losses(plans)) == []
        assert pool.places <= 0
        number = len(hired)
        assert list(pool.losses(plans)) == []
        assert len(hired) == number

    def test_a_closed_judge_answers_nothing(self, pool: JudgePool, plans: Sequence[Plan]) -> None:
        """`ask` of a judge that is gone is None and no error; `close` may be called again."""
        judge = pool.hire()
        assert judge.ask(plans[0]) is not None
        for _ in range(2):
            judge.close()
            assert judge.ask(plans[0]) is None

    def test_threads_may_ask_at_once(
        self, pool: JudgePool, plans: Sequence[Plan], expected: Sequence[Losses]
    ) -> None:
        """Each gets the answers to its own plans."""

        def ask(index: int) -> Losses:
            ((_, losses),) = pool.losses([plans[index]])
            return losses

        with ThreadPoolExecutor(4) as threads:
            found = dict(enumerate(threads.map(ask, range(len(plans)))))
        self.check(found, expected)

    def test_what_hire_raises_reaches_whoever_asks(
        self, pool: JudgePool, plans: Sequence[Plan]
    ) -> None:
        """An error that is no death is not swallowed."""

        def refuse() -> Judge:
            raise ZeroDivisionError("nobody to hire")

        pool.hire = refuse  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError, match="nobody to hire"):
            list(pool.losses(plans))

    def test_closing_ends_whoever_waits(
        self, make_pool: Callable[[], JudgePool], plans: Sequence[Plan]
    ) -> None:
        """After `close`, which may be called twice and from another thread, nothing is answered."""
        pool = make_pool()
        answers = pool.losses(plans)
        found = dict([next(answers)])
        for closing in [threading.Thread(target=pool.close) for _ in range(2)]:
            closing.start()
            closing.join(_WAIT_S)
            assert not closing.is_alive()
        found |= answers
        assert set(found) <= set(range(len(plans)))
        assert list(pool.losses(plans)) == []
