"""What became of the points of a body."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from tidemark.edge.contract import LISTED
from tidemark.wire.block import Columns


class Rejected(NamedTuple):
    """A refused point, or with no index all of the body."""

    at: int | None
    reason: str
    detail: str


@dataclass(slots=True)
class Verdict:
    """What became of a body's points.

    Attributes:
        accepted: How many are taken.
        rejected: Those that are not, as far as they are listed.
        refused: How many are not by reason, listed or not.
        spooled: They are on the disk and not yet in the bus.
    """

    accepted: int
    rejected: list[Rejected] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    spooled: bool = False

    def become(self, other: Verdict) -> None:
        """What is known now, of what was promised before."""
        self.accepted, self.rejected, self.refused = other.accepted, other.rejected, other.refused

    def after_all(self, reason: str, detail: str) -> Verdict:
        """The same, but that what was to be accepted is refused."""
        refused = {**self.refused, reason: self.refused.get(reason, 0) + self.accepted}
        return Verdict(0, [Rejected(None, reason, detail), *self.rejected[: LISTED - 1]], refused)


def verdict_on(columns: Columns) -> Verdict:
    """The verdict on a body that was read into empty columns."""
    letters = columns.dead_letters
    if not letters:
        return Verdict(len(columns.series))
    rejected = [
        Rejected(letter.position if letter.position >= 0 else None, letter.reason, letter.detail)
        for letter in letters[:LISTED]
    ]
    refused: Counter[str] = Counter()
    for letter in letters:
        refused[letter.reason] += letter.points
    return Verdict(len(columns.series), rejected, refused)


def none_accepted(reason: str, detail: str) -> Verdict:
    """The verdict on a body of which nothing is taken."""
    return Verdict(0, [Rejected(None, reason, detail)], {reason: 1})


def position(at: int, columns: Columns) -> int:
    """Which element of the body the accepted point is: those that were refused stand between them."""
    for letter in columns.dead_letters:
        if 0 <= letter.position <= at:
            at += letter.points
    return at
