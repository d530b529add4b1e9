"""Cuts a text that is not well-formed, or not as it should be, into its elements, so that a bad one costs itself alone.

In every form that is accepted when all is well: arrays, objects one after the other with any white space or none between
them, lines, batches. Where an element is broken, the next one is found by what JSON allows nowhere: inside an object a
bracket opens after a colon only, inside an array after a comma or at its start. A string ends with its line, unless what
looks like its end on a later one is followed by what may follow a string. Where nothing tells any more, the rest is one
piece.

The time is linear in the length: each byte is looked at a few times at most, most of them inside regular expressions that
never go back. A text of almost nothing but brackets is given up early, since each costs a step in Python.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

_BYTES_A_STEP: Final = 64
"""Of a text so many bytes on average stand between two brackets that one expression does not step over, or the rest is not
cut."""
_STEPS: Final = 1000
"""These are free: a short text may be denser."""
_RECUT: Final = 2
"""What follows the first line of a broken element is looked at once more; so many times the whole text in all."""

_BLANKS: Final = b" \t\r\n,\x00\x1e"
"""Between elements. RFC 7464 begins each with 0x1e; a byte order mark may stand where files were put together."""
_BETWEEN: Final = re.compile(rb"(?:[" + re.escape(_BLANKS) + rb"]++|\xef\xbb\xbf)*+")
_STRING: Final = rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'
_FROM_NEXT_LINE: Final = re.compile(rb'\n[^"\\]*+(?:\\[\x00-\xff][^"\\]*+)*+"(?=[ \t\r\n]*+[,:}\]])')
"""Of a string that none closes on its line, what is on the next ones."""
_PLAIN: Final = rb'[^"{}\[\]]*+'
_FLAT: Final = rb"(?:" + _PLAIN + _STRING + rb")*+" + _PLAIN
_NESTED: Final = rb"(?:(?<=:)|(?<=: ))(?:\{" + _FLAT + rb"\}|\[" + _FLAT + rb"\])"
_SIMPLE: Final = rb"(\{(?:" + _PLAIN + rb"(?:" + _STRING + rb"|" + _NESTED + rb"))*+" + _PLAIN + rb"\})"
_OBJECT: Final = re.compile(rb"[ \t\r\n,]*+" + _SIMPLE)
"""An object in which others stand one deep, as most points are, with what is before it."""
_NEXT: Final = re.compile(rb"[ \t\r\n]*+,[ \t\r\n]*+" + _SIMPLE)
"""The same behind another one in an array."""
_STEP: Final = re.compile(_FLAT + rb'(["{}\[\]]|\Z)')
"""Over everything that is no bracket, strings included, to the next bracket, to a quote that begins no string of one line,
or to the end."""
_JUNK: Final = re.compile(rb'(?:[^"\n{}\[\]]++|' + _STRING + rb")*+")
_JUNK_IN_ARRAY: Final = re.compile(rb'(?:[^",\n{}\[\]]++|' + _STRING + rb")*+")
_POINTS: Final = b'"points"'
AFTER_POINTS: Final = b"]}"
"""What closes a batch that `before_points` opened."""
_BEFORE_POINTS: Final = re.compile(_POINTS + rb"[ \t\r\n]*+:[ \t\r\n]*+\Z")
_LOOKED_BACK: Final = 64
_CLOSER: Final = {b"{": b"}", b"[": b"]"}
_WHITE: Final = frozenset(b" \t\r\n")
_NOTHING: Final = array("q")


class Piece(NamedTuple):
    """A part of a text.

    Attributes:
        text: An element as it was sent.
        head: When it is a batch: the batch without its points, a JSON object if all is well. Else None.
        points: Of a batch: where each of its points starts and ends in the whole text, one after the other.
        rest: It is the rest of the text, which was not cut.
    """

    text: bytes
    head: bytes | None = None
    points: array[int] = _NOTHING
    rest: bool = False


class _Dense(Exception):  # noqa: N818  # no failure: a way out of loops
    """The text has too many brackets to go on."""


class Cutter:
    """Cuts one text; to be iterated once.

    Args:
        text: UTF-8, or what is taken for it.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._steps = _STEPS + len(text) // _BYTES_A_STEP
        self._recut = _RECUT * len(text)
        self._at = 0
        self._in_array = False

    def __iter__(self) -> Iterator[Piece]:
        """The elements in their order; perhaps the rest."""
        try:
            yield from self._elements()
        except _Dense:
            left = self.rest()
            if left:
                yield Piece(left, rest=True)

    def rest(self, at: int | None = None, head: bytes | None = None) -> bytes:
        """What comes after the last piece, as a text of its own, which could be cut again.

        Args:
            at: Where it begins instead; a point of the last piece, a batch.
            head: Of that batch.
        """
        left = self._text[self._at if at is None else at :].lstrip(_BLANKS)
        if head is not None:
            return before_points(head) + left
        return b"[" + left if self._in_array and left else left

    def _elements(self) -> Iterator[Piece]:
        text, at = self._text, 0
        while True:
            while (found := _OBJECT.match(text, at)) is not None:
                if text.find(_POINTS, found.start(1), found.end()) >= 0:
                    break
                self._at = at = found.end()
                yield Piece(found[1])
            self._at = at = _after(_BETWEEN, text, at)
            if at >= len(text):
                return
            first = text[at : at + 1]
            if first == b"[" and not self._in_array:
                self._in_array = True
                at += 1
            elif first == b"]" and self._in_array:
                self._in_array = False
                at += 1
            elif first in _CLOSER:
                start, (at, points) = at, self._value(at, batch=True)
                if points is None:
                    piece = Piece(text[start:at].rstrip(_BLANKS))
                else:
                    piece, at = self._batch(start, points)
                self._at = at
                yield piece
            else:
                start, at = at, self._after_junk(at, in_array=self._in_array)
                self._at = at
                yield Piece(text[start:at].rstrip(_BLANKS))

    def _step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise _Dense

    def _after_junk(self, at: int, *, in_array: bool) -> int:
        """Where what begins no value ends: at a bracket, the line's end or an array's comma, but after one byte at least."""
        self._step()
        after = _after(_JUNK_IN_ARRAY if in_array else _JUNK, self._text, at)
        if self._text[after : after + 1] == b'"':  # which none closes on its line
            after = self._after_line(after)
        return max(after, at + 1)

    def _after_line(self, at: int) -> int:
        newline = self._text.find(b"\n", at)
        return len(self._text) if newline < 0 else newline + 1

    def _value(self, start: int, *, batch: bool = False, tail: bool = False) -> tuple[int, int | None]:
        """Where the value that begins at `start` ends, or where it must be broken off.

        Args:
            start: Of its bracket.
            batch: Stop where the points of a batch begin.
            tail: It is what follows the points of a batch: the object is open, and no bracket stands at `start`.

        Returns:
            Its end; and where its points begin, when it is a batch and was not gone through to its end.
        """
        text, at = self._text, start
        stack = [b"}"] if tail else []
        while True:
            self._step()
            step = _STEP.match(text, at)
            assert step is not None  # everything in it may be empty
            at, token = step.end(), step[1]
            if token == b'"':
                at = self._after_line(at)
                longer = _FROM_NEXT_LINE.match(text, at - 1)
                if longer is None:
                    return self._broken(start, at), None
                at = longer.end()
            elif not token:
                return self._broken(start, at), None
            elif token in _CLOSER:
                if stack and not self._may_open(stack[-1], at - 1):
                    return self._broken(start, at - 1), None
                if batch and token == b"[" and len(stack) == 1 and self._points_begin(at - 1):
                    return at, at
                stack.append(_CLOSER[token])
            elif token != stack[-1]:
                return self._broken(start, at - 1), None
            else:
                stack.pop()
                if not stack:
                    return at, None

    def _may_open(self, closer: bytes, at: int) -> bool:
        """Whether a bracket may open here, inside of what this bracket will close."""
        before = at - 1
        while self._text[before] in _WHITE:
            before -= 1
        return self._text[before] in (b":" if closer == b"}" else b",[")

    def _points_begin(self, at: int) -> bool:
        return _BEFORE_POINTS.search(self._text, max(0, at - _LOOKED_BACK), at) is not None

    def _broken(self, start: int, end: int) -> int:
        """Where to go on behind a broken value: of several lines the first is broken for sure, the next may be a value."""
        newline = self._text.find(b"\n", start, end - 1)
        if newline >= 0 and self._recut >= end - newline:
            self._recut -= end - newline
            return newline + 1
        return max(end, start + 1)

    def _batch(self, start: int, points: int) -> tuple[Piece, int]:
        """The batch whose points begin at `points`, and where it ends."""
        text, at = self._text, points
        spans = array("q")
        while True:
            between, at = at, _after(_BETWEEN, text, at)
            first = text[at : at + 1]
            if not first or first == b"]":
                break
            separate = not spans or text.find(b",", between, at) >= 0
            if first in _CLOSER and not separate and text.find(b"\n", between, at) >= 0:
                break  # the batch was cut off, and here is the next line
            if (found := _OBJECT.match(text, at)) is not None and separate:
                end = found.end()
            elif first in _CLOSER:
                end = self._value(at)[0]
            else:
                end = self._after_junk(at, in_array=True)
            spans.extend((at, end))
            at = end
            while (found := _NEXT.match(text, at)) is not None:
                spans.extend(found.span(1))
                at = found.end()
        head, tail = text[start:points], AFTER_POINTS
        if text[at : at + 1] == b"]":
            end = self._value(at + 1, tail=True)[0]
            tail, at = text[at:end].rstrip(_BLANKS), end
        return Piece(text[start:at].rstrip(_BLANKS), head + tail, spans), at


class _Names(msgspec.Struct):
    project: msgspec.Raw = msgspec.Raw()
    source: msgspec.Raw = msgspec.Raw()


_NAMES: Final = msgspec.json.Decoder(_Names)


def before_points(head: bytes) -> bytes:
    """What stands before the points of a batch with this head: its names, or nothing where they cannot be read."""
    try:
        names = _NAMES.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        names = _Names()
    given = ((b"project", bytes(names.project)), (b"source", bytes(names.source)))
    return b"{" + b"".join(b'"%b":%b,' % (name, value) for name, value in given if value) + b'"points":['


def _after(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()
