from __future__ import annotations

import random

import pytest

from tests.wire.fuzz import body, check


@pytest.mark.parametrize("seed", range(4))
def test_every_good_point_of_a_broken_body_is_stored_or_kept(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(5_000):
        check(body(chance))
