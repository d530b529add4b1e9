"""However marks lie, parts cover what they owe, each window of a series once."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tidemark.store.parts import Mark, Part, cuts, of_all, of_series

DAY_S = 86_400


@st.composite
def marks(draw: st.DrawFn) -> list[Mark]:
    made = []
    for number in range(draw(st.integers(1, 30))):
        start, length = draw(st.integers(0, 300)), draw(st.sampled_from([1, 1, 1, 2, 7, 60, 1440]))
        series = draw(st.sampled_from([None, 1, 2, 3]))
        made.append(Mark(number, start * 60, (start + length) * 60, series))
    return made


def windows(part: Part) -> Counter[tuple[int | None, int]]:
    ranges = part.scope if isinstance(part.scope, list) else [part.scope]
    return Counter((r.series_id, at) for r in ranges for at in range(r.start, r.end, 60))


def checked(parts: list[Part], given_marks: list[Mark]) -> None:
    assert sorted(m.id for part in parts for m in part.marks) == sorted(m.id for m in given_marks)
    for part in parts:
        ranges = part.scope if isinstance(part.scope, list) else [part.scope]
        for mark in part.marks:
            assert any(
                r.start <= mark.start and mark.end <= r.end and r.series_id in (None, mark.series_id) for r in ranges
            )
        assert part.windows(60) == sum(windows(part).values())
    every = Counter[tuple[int | None, int]]()
    for part in parts:
        every += windows(part)
    assert set(every.values()) <= {1}
    owed = {(m.series_id, at) for m in given_marks for at in range(m.start, m.end, 60)}
    assert every.keys() <= owed


@given(marks(), st.sampled_from([1, 4, 64, 1024]))
def test_parts_cover_what_marks_owe_once(found: list[Mark], most: int) -> None:
    whole, left = of_all(found)
    single = of_series(left, 60, most, DAY_S)
    checked([*whole, *single], found)
    assert [part.end for part in whole] == sorted((part.end for part in whole), reverse=True)
    for part in single:
        assert part.windows(60) <= most or len(part.scope) == 1  # type: ignore[arg-type]


@given(marks(), st.sampled_from([1, 2, 16, 256]), st.integers(0, 400))
def test_pieces_of_marks_lie_in_cells_and_make_up_the_marks(found: list[Mark], cell: int, begin: int) -> None:
    begin_s = begin * cell * 60
    pieces = []
    for mark in found:
        of_mark = list(cuts(mark, cell * 60, begin_s))
        assert (of_mark[0][0], of_mark[-1][1]) == (mark.start, mark.end)
        assert all(before[1] == after[0] for before, after in pairwise(of_mark))
        for start, end in of_mark:
            assert end <= begin_s or start // (cell * 60) == (end - 1) // (cell * 60)
            if end > begin_s:
                pieces.append(Mark(len(pieces), start, end, mark.series_id))
    whole, left = of_all(pieces, cell * 60)
    parts = [*whole, *of_series(left, 60, cell, cell * 60)]
    checked(parts, pieces)
    assert all(part.windows(60) <= cell for part in parts)
