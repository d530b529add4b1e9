"""Bodies of every form, broken at random; and what must be true of each: no good point vanishes or holds up another."""

from __future__ import annotations

import gzip
import random
import re
from typing import Final, NamedTuple

import zstandard

from tidemark.wire.block import Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.message import Message

PUBLISHED_US: Final = 1_769_860_810_000_000
_FIRST_MS: Final = 1_769_000_000_000
_NAMED: Final = re.compile(rb'"([^"]*)"\s*:\s*[\[{]')
_NAMES: Final = (b"points", b"attributes", b"a", b"b", b"c")
"""Of the fields whose value has brackets, those in which no point is ignored."""
_MANY: Final = 0.01
"""Of the texts have so many bad elements at their end that they are not all looked at."""
_WRITTEN_BESIDE: Final = 64 << 10

_JUNK: Final = (
    b'{"project":"p","source":"s","metric":"m","event_time":1769860800000,"value":}',
    b'{"project":"p","source":"s","metric":"m\xff","event_time":1769860800000,"value":1}',
    b'{"project":"p","source":"s","metric":"m","event_time":1769860800000,"value":1,"x":"\\ud800"}',
    b'{"project":"p","source":"s","metric":"m","event_time":1769860800000,"value":1,"x":"a\tb"}',
    b'{"project":"p","source":"s","metric":"m","event_time":1769860800000,"value":1,"x":"a\0b"}',
    b'{"project":"p","source":"s","metric":"m","event_time":1769860800,"value":1}',
    b'{"project":"p","source":"s","metric":"m","event_time":1769860800000,"value":NaN}',
    b"{'project':'p'}",
    b"{a:1}",
    b'{"a":[1,2,{"b":{}}]}',
    b'{"a":[1,2,}',
    b"{}",
    b"[]",
    b"[1]",
    b"1",
    b"-",
    b"nul",
    b"true",
    b"NaN",
    b'"text"',
    b'"te\\"xt, {not} [a] point"',
    b"\xff\xfe",
    b"None",
    b'{"project":"p","source":"s","points":[]}',
    b'{"project":"p","points":[{"metric":"m","event_time":1769860800000,"value":1}]}',
)
"""Elements that are no points and have no bracket of the array around them."""
_IN_DOUBT: Final = (b'{"a":{"b":1]}', b'{"a":[1', b'"open', b"]")
"""These may be taken for the end of what they stand in, or for its beginning."""
_LINES: Final = (
    b"# a comment",
    b"id,name,1.5",
    b'say "hi',
    b'{"cut":"in the',
    b'{"cut":[1,2',
    b"---",
    b"data: x",
    b"\x1e",
)
"""What only a line's end ends."""
_BLANKS: Final = (b"", b" ", b"\n", b"\r\n", b" \t ", b"\n\n  ")
_SPLICES: Final = (
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\0",
    b"\xff",
    b"\x1e",
    b"e",
    b"NaN",
    b'\\"',
    b"}{",
)


class Body(NamedTuple):
    """What is sent.

    Attributes:
        data: As published.
        attributes: Of the message.
        good: The text of each point that nothing was done to, by its event time in microseconds.
        stored: All of these have to be stored; else they may be in dead letters.
    """

    data: bytes
    attributes: dict[str, str]
    good: dict[int, bytes]
    stored: bool


def body(chance: random.Random) -> Body:
    """A body with whole elements that are bad, or one that was cut, spliced or overwritten somewhere."""
    return _neighbours(chance) if chance.random() < 0.5 else _damaged(chance)


def check(made: Body) -> None:
    """Decode a body and hold what becomes of it against what must.

    Raises:
        AssertionError: with the body.
    """
    into = Columns()
    Decoder().decode(Message(made.data, made.attributes, PUBLISHED_US, "1"), into, PUBLISHED_US)
    stored = set(into.event_time)
    kept = b"\n".join(letter.data for letter in into.dead_letters)
    written = len(kept) + sum(
        len(letter.detail.encode()) + sum(len(name) + len(value) for name, value in letter.attributes.items())
        for letter in into.dead_letters
    )
    assert written <= 2 * (len(made.data) + sum(map(len, made.attributes.values()))) + _WRITTEN_BESIDE, made
    assert all(letter.data == made.data or made.data for letter in into.dead_letters if letter.position < 0), made
    missing = [at for at in made.good if at not in stored]
    if made.stored:
        assert not missing, (made.good[missing[0]], made)
    elif made.data not in kept:
        for at in missing:  # its text may be in two letters, where a lost quote made one of its brackets part of a text
            assert b"%d" % (at // 1000) in kept, (made.good[at], made)


class _Maker:
    """Writes points whose event times tell them apart, in one form."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._number = chance.randrange(1000)
        self.good: dict[int, bytes] = {}
        self.is_looked_through = True
        self.indent = chance.choice((b"", b"", b" ", b"\n  ", b"\r\n\t"))

    def point(self, *, named: bool) -> bytes:
        """One point; its text is kept."""
        chance, blank = self._chance, self.indent
        self._number += 1
        at = _FIRST_MS + self._number
        fields = [b'"metric":"m"', b'"event_time":%d' % at, b'"value":%d' % chance.randrange(-9, 99)]
        if named:
            fields += [b'"project":"p"', b'"source":"s"']
        if chance.random() < 0.3:
            fields.append(
                chance.choice(
                    (
                        b'"attributes":{"a":{"b":[1,{"c":"}]"}]}}',
                        b'"attributes":{"text":"say \\"hi\\" \\\\"}',
                        b'"attributes":{}',
                        b'"attributes":null',
                        '"other":"Größe {"'.encode(),
                        b'"other":[[[{"points":[]}]]]',
                    )
                )
            )
        chance.shuffle(fields)
        text = b"{" + blank + (b"," + blank).join(fields) + blank + b"}"
        self.good[at * 1000] = text
        return text

    def batch(self, elements: list[bytes]) -> bytes:
        """A batch of texts of points."""
        blank = self.indent
        names = [b'"project":"p"', b'"source":"s"']
        self._chance.shuffle(names)
        fields = [*names, b'"points":[' + blank + (b"," + blank).join(elements) + blank + b"]"]
        if self._chance.random() < 0.3:
            fields.insert(0, fields.pop())
        return b"{" + blank + (b"," + blank).join(fields) + blank + b"}"


def _elements(chance: random.Random, maker: _Maker, junk: tuple[bytes, ...], *, named: bool) -> list[bytes]:
    some = [maker.point(named=named) for _ in range(chance.randrange(1, 9))]
    for _ in range(chance.randrange(1, 5) if junk else 0):
        some.insert(chance.randrange(len(some) + 1), chance.choice(junk))
    if junk and chance.random() < _MANY:
        some += [chance.choice(junk)] * chance.choice((60, 400, 4000))
        maker.is_looked_through = False
    return some


def _text(chance: random.Random, maker: _Maker, junk: tuple[bytes, ...]) -> bytes:
    """A text in one of the forms."""
    blank = chance.choice(_BLANKS)
    form = chance.randrange(6)
    if form == 0:
        return b"[" + (b"," + blank).join(_elements(chance, maker, junk, named=True)) + b"]"
    if form == 1:
        return maker.batch(_elements(chance, maker, junk, named=False))
    if form == 2:
        batches = [maker.batch(_elements(chance, maker, junk, named=False)) for _ in range(3)]
        return b"[" + (b"," + blank).join(batches) + b"]"
    if form == 3:  # one a line, whatever is in it
        maker.indent = chance.choice((b"", b" "))
        lines = tuple(each for each in junk if b"\n" not in each) + (_LINES if junk else ())
        return b"\n".join(_elements(chance, maker, lines, named=True)) + b"\n" * chance.randrange(2)
    objects = tuple(each for each in junk if each.startswith(b"{"))
    if form == 4:
        return blank.join(_elements(chance, maker, objects, named=True))
    return blank.join(
        maker.batch(_elements(chance, maker, objects, named=False)) for _ in range(chance.randrange(1, 4))
    )


def _neighbours(chance: random.Random) -> Body:
    maker = _Maker(chance)
    text = _text(chance, maker, _JUNK)
    if chance.random() < 0.2:
        text += chance.choice((b"\0", b"\n\0\0", b"\n# end", b"\n]", b"\xff"))
    return _packed(chance, text, maker.good, stored=maker.is_looked_through)


def _damaged(chance: random.Random) -> Body:
    maker = _Maker(chance)
    text = _text(chance, maker, chance.choice(((), _JUNK, _JUNK + _IN_DOUBT)))
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at, end = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        kind = chance.randrange(5)
        if kind == 0:
            text = text[:at]
        elif kind == 1:
            text = text[:at] + text[min(end, at + chance.choice((1, 2, 10))) :]
        elif kind == 2:
            text = text[:at] + chance.choice(_SPLICES) + text[at + chance.randrange(2) :]
        elif kind == 3:
            text = text[:at] + bytes([chance.randrange(256)]) + text[at + chance.randrange(2) :]
        else:
            text = text[:end] + text[at:end][:200] + text[end:]
    good = {at: whole for at, whole in maker.good.items() if whole in text}
    if any(name not in _NAMES for name in _NAMED.findall(text)):
        good = {}  # these may stand in a field that is not known, which is ignored with all that is in it
    return _packed(chance, text, good, stored=False)


def _packed(chance: random.Random, text: bytes, good: dict[int, bytes], *, stored: bool) -> Body:
    kind = chance.randrange(10)
    if kind > 1:
        attributes = {"fleet": "f" * chance.choice((1, 1000, 60_000))} if chance.random() < _MANY else {}
        return Body(text, attributes, good, stored)
    pack = gzip.compress if kind else zstandard.compress
    at = chance.randrange(len(text) + 1)
    streams = [pack(text)] if chance.random() < 0.5 else [pack(text[:at]), pack(text[at:])]
    data = b"".join(streams)
    cut = chance.randrange(len(data))
    if chance.random() < 0.3 and cut != len(
        streams[0]
    ):  # between two streams nothing tells that there was a second one
        data, stored = data[:cut], False
    return Body(data, {"content_encoding": chance.choice(("gzip", "GZIP") if kind else ("zstd", "Zstd"))}, good, stored)
