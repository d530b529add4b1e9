"""From a packed file to its text, member after member, and over what is damaged.

Text is given away once its member has gone on for a mebibyte (bzip2: four) without complaint, or has ended well: what a
decompressor makes of bytes that are not right is seldom refused at once. What is still held when damage is found is not
given, unless the member was only cut. A member of less than a mebibyte is so given whole, and checked, or not at all; of
a greater one a wrong checksum shows when most of it was given, and the error says so.

Where members may begin behind damage is looked for by their magic; what begins there must unpack. The same is found
whether reading goes on or not, so that positions mean the same. Behind a text that grows beyond all bounds nothing is
looked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO, Final

from tidemark.archive.damage import DamagedError
from tidemark.archive.members import PACKINGS, BrokenError, Packing
from tidemark.archive.packed import Packed

BOMB_TEXT_BYTES: Final = 256 << 20
BOMB_RATIO: Final = 1000
"""A file whose text is longer than 256 MiB and 1,000 times what was read of it is given up; lines of points have 5 to 50."""
_TRIALS: Final = 10_000
"""Places, of one file, where a member may begin behind damage: each costs a trial."""


def texts(file: BinaryIO, packing: str, part: int, *, skip_damaged: bool) -> Iterator[bytes | DamagedError]:
    """The text in blocks; a place that is damaged is an error between them, after which there is more or not.

    Args:
        file: From its beginning.
        packing: gzip, bzip2, xz or zstd.
        part: For the errors.
        skip_damaged: Go on behind damage; else the first error is the last that is given.
    """
    return _Unpacking(file, PACKINGS[packing], part, skip_damaged).texts()


class _BombError(BrokenError):
    """The text is too much longer than what it is made of."""


class _Unpacking:
    def __init__(self, file: BinaryIO, packing: Packing, part: int, skip_damaged: bool) -> None:
        self._packed = Packed(file)
        self._packing = packing
        self._part = part
        self._skip = skip_damaged
        self._trials = _TRIALS
        self._begin = 0
        """Of the member."""
        self._given = self._given_before = 0
        """Bytes of text, and of the members before this one."""
        self._held: deque[bytes] = deque()
        self._held_bytes = 0

    def texts(self) -> Iterator[bytes | DamagedError]:
        packed = self._packed
        member: Iterator[bytes] | None = self._packing.member(packed)
        while member is not None:
            try:
                yield from self._checked(member)
            except BrokenError as error:
                member = None
                if (error.cut or self._skip) and not isinstance(error, _BombError):
                    member = self._next(error.resume or self._begin + 1)
                if error.cut and member is None:
                    yield from self._release(0)
                self._held.clear()
                self._held_bytes = 0
                yield self._damage(error)
                if not self._skip:
                    return
            else:
                packed.skip_zeros()
                self._begin = packed.at
                member = self._packing.member(packed) if packed.peek(1) else None
            self._given_before = self._given

    def _checked(self, member: Iterator[bytes]) -> Iterator[bytes]:
        for text in member:
            self._held.append(text)
            self._held_bytes += len(text)
            yield from self._release(self._packing.held_bytes)
            if self._given > max(BOMB_TEXT_BYTES, BOMB_RATIO * self._packed.at):
                why = f"it unpacks to more than {BOMB_RATIO} times its bytes, which no series does"
                raise _BombError(why, self._packed.at)
        yield from self._release(0)

    def _release(self, held_bytes: int) -> Iterator[bytes]:
        while self._held and self._held_bytes - len(self._held[0]) >= held_bytes:
            text = self._held.popleft()
            self._held_bytes -= len(text)
            self._given += len(text)
            yield text

    def _damage(self, error: BrokenError) -> DamagedError:
        why = error.why
        if self._given > self._given_before:
            why += f"; its text from byte {self._given_before} on was given before all of it could be checked"
        return DamagedError(self._part, error.at, self._given, why)

    def _next(self, begin: int) -> Iterator[bytes] | None:
        """The first member at `begin` or behind it that unpacks, as far as one step shows."""
        packed = self._packed
        packed.back(begin)
        while self._trials and packed.find(self._packing.magic):
            self._trials -= 1
            self._begin = packed.at
            trial = self._packing.member(packed)
            try:
                first = next(trial, b"")
            except BrokenError:
                packed.back(self._begin + 1)
            else:
                return chain((first,), trial)
        return None
