"""Room that comes back goes to those that wait for it, whoever else waited and is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tidemark.edge.budget import Budget


class Waiting:
    """Tries to have room as often as it is asked; gone, it wants none."""

    def __init__(self, budget: Budget, project: str, size: int, *, gone: bool = False) -> None:
        self._budget, self._project, self._size, self._gone = budget, project, size, gone
        self.asked, self.has = 0, False
        assert not budget.take(project, size)
        budget.wait(self.again)

    def again(self) -> bool:
        self.asked += 1
        if self._gone:
            return False
        self.has = self._budget.take(self._project, self._size)
        if not self.has:
            self._budget.wait(self.again)
        return not self.has

    def give_back(self) -> None:
        self.has = False
        self._budget.give_back(self._project, self._size)


def in_turns(made: Callable[[], None]) -> None:
    """What is made, and as many turns of a loop as are of any use."""

    async def turns() -> None:
        made()
        for _ in range(1000):
            await asyncio.sleep(0)

    asyncio.run(turns())


def test_who_is_gone_takes_nobodys_turn() -> None:
    budget = Budget(100)
    assert budget.take("a", 100)
    gone = [Waiting(budget, "a", 1, gone=True) for _ in range(500)]
    here = [Waiting(budget, "b", 30), Waiting(budget, "c", 20)]
    in_turns(lambda: budget.give_back("a", 100))
    assert [one.has for one in here] == [True, True]
    assert {one.asked for one in gone} == {1}


def test_who_finds_no_room_is_asked_again_when_there_is_more_and_not_before() -> None:
    budget = Budget(100)
    assert budget.take("a", 60)
    assert budget.take("b", 20)
    large = [Waiting(budget, "a", 50) for _ in range(20)]
    in_turns(lambda: budget.give_back("b", 20))
    assert max(one.asked for one in large) == 1
    in_turns(lambda: budget.give_back("a", 60))
    assert sum(one.has for one in large) == 1
    served = 1
    while any(one.has for one in large):
        in_turns(next(one for one in large if one.has).give_back)
        served += 1
        assert served <= 21
    assert served == 21
    assert budget.used == 0


@pytest.mark.parametrize("size", [0, 1])
def test_nothing_is_given_back_as_often_as_one_likes(size: int) -> None:
    budget = Budget(100)
    assert budget.take("a", size)
    budget.give_back("a", 0)
    budget.give_back("a", size)
    budget.give_back("a", 0)
    assert budget.used == 0
