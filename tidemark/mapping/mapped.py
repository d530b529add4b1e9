"""From messages of any JSON to columns of points, by way of a mapping.

A body is cut into its values (an array's elements, a line's each; the whole of it where the program says so); each is mapped by
itself, and what comes out is read as if it had been sent. A value that cannot be mapped, or of whose outputs one is refused, is
one dead letter, with its own bytes as they came: it can be mapped again when the program is better. Outputs that are
right are kept beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from tidemark.mapping.program import Program
from tidemark.mapping.runner import Outcome, Runner
from tidemark.wire.block import Columns
from tidemark.wire.body import UNREADABLE
from tidemark.wire.broken import as_utf8, rejection
from tidemark.wire.cut import Cutter
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message, body, moment
from tidemark.wire.reasons import Reason, RejectedError
from tidemark.wire.refused import Refused, whole

STAGE: Final = "mapping"
_VALUE: Final = msgspec.json.Decoder(msgspec.Raw)
_VALUES: Final = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT: Final = msgspec.json.Encoder()
_SHOWN: Final = 100


class Reads(Protocol):
    """Reads what a mapping makes: `tidemark.wire.decode.Decoder`, or `tidemark.wire.archived.ArchiveDecoder`."""

    @property
    def limits(self) -> Limits:
        """The bounds of the contract."""

    def accept_lines(self, message: Message, text: bytes, into: Columns, now_us: int) -> None:
        """Append points and batches, one a line, or raise."""

    def decode(self, message: Message, into: Columns, now_us: int) -> bool:
        """Append points, and dead letters."""


class Mapped(NamedTuple):
    """What became of one message.

    Attributes:
        columns: Its points and dead letters.
        filtered: How many of its values have no output.
    """

    columns: Columns
    filtered: int


class _Work:
    """What is known of a message before its values are mapped."""

    __slots__ = ("message", "parts", "refused", "text")

    def __init__(self, message: Message, text: bytes) -> None:
        self.message, self.text = message, text
        self.parts: list[tuple[int, bytes]] = []
        """Values and their places."""
        self.refused: Refused | None = None

    def refuse(self, at: int, value: bytes, rejected: RejectedError, points: int = 1) -> None:
        """Keep a value as a dead letter."""
        self.letters().add(at, value, lambda: rejected, points)

    def letters(self) -> Refused:
        """Those of this message."""
        if self.refused is None:
            self.refused = Refused(self.message, self.text, STAGE)
        return self.refused


class MappedDecoder:
    """Fills columns from messages by a mapping; never raises for what a message contains. Not for several threads.

    Args:
        program: The mapping.
        reader: Of what comes out.
    """

    def __init__(self, program: Program, reader: Reads) -> None:
        self._runner = Runner(program, reader.limits.max_message_bytes)
        self._decoder, self._whole = reader, program.whole

    def decode(self, messages: Sequence[Message], into: Columns, now_us: int) -> int:
        """Append the points of `messages` to `into`, and dead letters for what cannot be one.

        Args:
            messages: As delivered; `tidemark.wire.message.shares` says how many at once.
            into: Filled in place.
            now_us: The clock in microseconds, from which the retention is counted.

        Returns:
            How many values were filtered: they had no output.

        Raises:
            MisconfiguredError: the mapping cannot be run at all; nothing is in `into` but dead letters.
        """
        return sum(self._decode([(message, into) for message in messages], now_us))

    def each(self, messages: Sequence[Message], now_us: int) -> list[Mapped]:
        """The same for messages that are to be answered one by one, each into columns of its own.

        Raises:
            MisconfiguredError: the mapping cannot be run at all.
        """
        columns = [Columns() for _ in messages]
        filtered = self._decode(list(zip(messages, columns, strict=True)), now_us)
        return [Mapped(*one) for one in zip(columns, filtered, strict=True)]

    def _decode(self, messages: Sequence[tuple[Message, Columns]], now_us: int) -> list[int]:
        """How many values of each were filtered."""
        cut: list[_Work | None] = []
        for message, into in messages:
            try:
                cut.append(self._cut(message))
            except RejectedError as rejected:
                into.dead_letters.append(whole(message, rejected, STAGE))
                cut.append(None)
        outcomes = iter(self._runner.run([made for work in cut if work is not None for made in _inputs(work)]))
        return [
            0 if work is None else self._take(work, [next(outcomes) for _ in work.parts], into, now_us)
            for work, (_, into) in zip(cut, messages, strict=True)
        ]

    def start(self) -> None:
        """Begin its process, which the first message would do otherwise.

        Raises:
            MisconfiguredError: it cannot be begun.
        """
        self._runner.start()

    def close(self) -> None:
        """End its process."""
        self._runner.close()

    def _cut(self, message: Message) -> _Work:
        """A message and its values; what is no JSON is refused already.

        Raises:
            RejectedError: it has no text.
        """
        text = as_utf8(body(message, self._decoder.limits.max_message_bytes))
        work = _Work(message, text)
        try:
            work.parts = list(enumerate(_values(text, self._whole)))
        except UNREADABLE:
            if self._whole and text.lstrip()[:1] == b"[":
                raise RejectedError(Reason.NOT_JSON, f"the body is no JSON: {_shown(text)}") from None
            self._cut_slowly(work)
        if not work.parts and work.refused is None:
            raise RejectedError(Reason.EMPTY_MESSAGE, "the body has no values")
        return work

    def _cut_slowly(self, work: _Work) -> None:
        for at, piece in enumerate(Cutter(work.text)):
            if piece.rest:
                work.letters().rest(at, piece.text)
                return
            try:
                _VALUE.decode(piece.text)
                work.parts.append((at, piece.text))
            except UNREADABLE as error:
                work.refuse(at, piece.text, rejection(error))
                if not work.letters().malformed(len(work.parts)):
                    return

    def _take(self, work: _Work, outcomes: list[Outcome], into: Columns, now_us: int) -> int:
        """Read what came out of a message; returns how many of its values were filtered."""
        filtered = 0
        texts = []
        for outcome in outcomes:
            if outcome.outputs:
                texts.append(outcome.outputs)
            else:
                filtered += outcome.failed is None
        failed = len(outcomes) - filtered - len(texts)
        if failed or (texts and not self._at_once(work.message, b"\n".join(texts), into, now_us)):
            self._one_by_one(work, outcomes, into, now_us)
        if work.refused is not None:
            into.dead_letters += work.refused.letters()
        return filtered

    def _at_once(self, message: Message, text: bytes, into: Columns, now_us: int) -> bool:
        """Append all of it, or nothing; whether all of it is right."""
        held = len(into.series)
        try:
            self._decoder.accept_lines(message, text, into, now_us)
        except (RejectedError, *UNREADABLE):
            into.truncate(held)
            return False
        return True

    def _one_by_one(self, work: _Work, outcomes: list[Outcome], into: Columns, now_us: int) -> None:
        for (at, value), outcome in zip(work.parts, outcomes, strict=True):
            if outcome.failed is not None:
                work.refuse(at, value, RejectedError(Reason.MAPPING_FAILED, outcome.failed))
            elif outcome.outputs and not self._at_once(work.message, outcome.outputs, into, now_us):
                self._take_outputs(work, at, value, outcome.outputs, into, now_us)

    def _take_outputs(self, work: _Work, at: int, value: bytes, outputs: bytes, into: Columns, now_us: int) -> None:
        """Of a value of whose points one is refused: the others, and one dead letter."""
        message = work.message
        attributes = {name: said for name, said in message.attributes.items() if name != "content_encoding"}
        held = len(into.dead_letters)
        first = ""
        for number, output in enumerate(outputs.split(b"\n"), 1):
            told = len(into.dead_letters)
            self._decoder.decode(message._replace(data=output, attributes=attributes), into, now_us)
            if not first and len(into.dead_letters) > told:
                first = f"output {number}: {into.dead_letters[told].detail}: {_shown(output)}"
        letters = into.dead_letters[held:]
        del into.dead_letters[held:]
        if letters:
            rejected = RejectedError(letters[0].reason, first)
            work.refuse(at, value, rejected, sum(letter.points for letter in letters))


class OneDecoder:
    """A mapping for messages one at a time, as of `tidemark.wire.decode.Decoder`."""

    def __init__(self, program: Program, reader: Reads) -> None:
        self._mapped, self._whole = MappedDecoder(program, reader), program.whole

    def decode(self, message: Message, into: Columns, now_us: int) -> int:
        """Append the points of `message`, and dead letters; returns how many of its values were filtered."""
        return self._mapped.decode([message], into, now_us)

    def again(self, message: Message, into: Columns, now_us: int) -> int:
        """The same of one or several values that were cut out of a message before: an array among them is a value itself."""
        if message.data.lstrip()[:1] == b"[" and not self._whole:
            with contextlib.suppress(*UNREADABLE):
                values = b",".join(_VALUE.decode_lines(message.data))
                message = message._replace(data=b"[%b]" % values)
        return self._mapped.decode([message], into, now_us)

    def close(self) -> None:
        """End its process."""
        self._mapped.close()


def _values(text: bytes, whole_arrays: bool) -> list[bytes]:
    """The values of a well-formed body."""
    if text.lstrip()[:1] == b"[" and not whole_arrays:
        try:
            return [bytes(value) for value in _VALUES.decode(text)]
        except msgspec.DecodeError:  # lines that are arrays, or no JSON
            return [bytes(value) for value in _VALUE.decode_lines(text)]
    try:
        return [bytes(_VALUE.decode(text))]
    except msgspec.DecodeError:
        return [bytes(value) for value in _VALUE.decode_lines(text)]


def _inputs(work: _Work) -> Iterator[bytes]:
    message = work.message
    published = moment(message.publish_time).isoformat(timespec="microseconds").replace("+00:00", "Z")
    tail = b',"attributes":%b,"publish_time":"%b","message_id":%b}' % (
        _TEXT.encode(dict(message.attributes)),
        published.encode(),
        _TEXT.encode(message.message_id),
    )
    for _, value in work.parts:
        yield b'{"body":%b%b' % (value, tail)


def _shown(text: bytes) -> str:
    found = text[:_SHOWN].decode("utf-8", "replace")
    return found + ("…" if len(text) > _SHOWN else "")
