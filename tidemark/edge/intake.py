"""The way of a body, whoever brought it: read as the pipeline reads it, told what is refused, kept before it is answered."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from tidemark.bus.publisher import BYTES_A_CALL, Publisher
from tidemark.edge.contract import FORBIDDEN, LISTED, SERIES_LIMIT
from tidemark.edge.mapped import ForbiddenError, Mapper, Pending
from tidemark.edge.pack import PACK_BYTES, Clock, Pack, Together
from tidemark.edge.spool import Spool
from tidemark.edge.tokens import Grant
from tidemark.edge.verdict import Rejected, Verdict, none_accepted, position, verdict_on
from tidemark.errors import TidemarkError, UnavailableError
from tidemark.mapping.mapped import MappedDecoder
from tidemark.mapping.program import Program
from tidemark.wire.block import Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.encode import lines
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from tidemark.wire.packing import unpacked
from tidemark.wire.reasons import Reason, RejectedError

_JOINED_BYTES: Final = 64 << 10
_JOINED_POINTS: Final = 64
"""What is more is a message of its own: what is gained by joining it is little."""
NOTHING: Final[Mapping[str, str]] = {}
OPEN_PACKS: Final = 64
"""Of a project; with one more window all of them are left as they are, and others begun."""
_MESSAGE_BYTES: Final = BYTES_A_CALL - (64 << 10)
"""Most text of a message, not counting on that it can be made smaller; the rest of a call is for attributes."""


def _untold(_number: int, _project: str) -> None:
    """Nobody asks."""


def _least(times: array[int]) -> int:
    """The least of event times."""
    return min(times) if len(times) < _JOINED_POINTS else int(np.frombuffer(times, np.int64).min())


class TooLargeError(TidemarkError):
    """The body is larger than is taken; none of it is."""


class Taken(NamedTuple):
    """What became of bodies in a row: how many they are, the verdict on all their points, and what those are in."""

    bodies: int
    verdict: Verdict
    kept: Pack | Together | Pending | None


class Intake:
    """One for a process, over one publisher."""

    def __init__(
        self,
        publisher: Publisher,
        limits: Limits,
        window_s: int,
        max_series: int = 0,
        spool: Spool | None = None,
        mapping: Program | None = None,
        filtered: Callable[[int, str], None] = _untold,
    ) -> None:
        """Nothing is published before `take`.

        Args:
            publisher: Of the topic.
            limits: Those of the pipeline.
            window_s: Length of the smallest tier: what lies in one window may become one message.
            max_series: Of a project; 0: any number. What is known of them is this process's own, since its start.
            spool: Keeps what the bus does not take; None: it is told that it was not taken.
            mapping: Of bodies that are none of the contract.
            filtered: Told how many values of a project the mapping leaves out.
        """
        self.mapper: Mapper | None = None
        if mapping is not None:
            self.mapper = Mapper(MappedDecoder(mapping, Decoder(limits)), self._take_columns, filtered)
        self.publisher, self.spool, self.limits = publisher, spool, limits
        self._decoder = Decoder(limits)
        self._window_us = window_s * 1_000_000
        self._most_bytes = min(limits.max_message_bytes, _MESSAGE_BYTES)
        self._max_series = max_series
        self._series: dict[str, set[int]] = {}
        self._packs: dict[str, dict[int, Pack]] = {}
        self.clock = Clock()
        self._keeping: set[asyncio.Future[None]] = set()

    def unpack(self, body: bytes, encoding: str) -> bytes | Verdict:
        """The text of a body, or the verdict on it.

        Raises:
            TooLargeError: it is larger than a message may be.
        """
        try:
            return unpacked(body, encoding, self.limits.max_message_bytes)
        except RejectedError as rejected:
            if rejected.reason is Reason.MESSAGE_TOO_LARGE:
                raise TooLargeError(f"The body has {rejected.detail}.") from None
            return none_accepted(rejected.reason, rejected.detail)

    def take(
        self, text: bytes, grant: Grant, about: Mapping[str, str] = NOTHING
    ) -> tuple[Verdict, Pack | Together | Pending | None]:
        """Read a body and publish what is good of it.

        Args:
            text: Not compressed.
            grant: Of its sender.
            about: Attributes for the mapping, where there is one: the verdict is known when what the points are in says so.

        Returns:
            The verdict on its points, and what they are in, where any is accepted: kept when it says so (`then`). It says an
            UnavailableError or a MisconfiguredError where the bus does not take it and there is no spool, a FullError where
            that does not either, and a RefusedError where the bus never will.

        Raises:
            ForbiddenError: it has points that its sender may not send; nothing is published. With a mapping it is told as what
                became of it.
        """
        now = self.clock.now()
        if self.mapper is not None:
            pending = self.mapper.put(text, about, grant, now, alone=True)
            return pending.verdict, pending
        columns = Columns()
        at_once = self._decoder.decode(Message(text, {"project": grant.project}, now, ""), columns, now)
        self._check(columns, grant)
        verdict = verdict_on(columns)
        chosen = self._within_series(columns, grant, verdict) if grant.max_series or self._max_series else None
        grant.charge(verdict.accepted)
        if not verdict.accepted:
            return verdict, None
        whole = chosen is None and not verdict.refused
        if whole and len(text) <= self._most_bytes:
            line = text.rstrip()
            if len(columns.series) == 1:
                line = line.replace(b"\n", b" ")  # over several lines, none of which is inside a text
            joined = at_once and text.startswith(b"{") and b"\n" not in line
            return verdict, self._pack(line if joined else text, columns, grant.project, now, joined=joined)
        left = range(len(columns.series)) if chosen is None else chosen
        return verdict, self._in_parts(columns, left, grant.project, now)

    def take_each(
        self, texts: Sequence[bytes], grant: Grant, about: Sequence[Mapping[str, str]] | None = None
    ) -> list[Taken]:
        """As `take`, for many bodies of one sender that come together: read by one call as long as nothing is wrong.

        What comes later is accepted later: of two values of one point that of the later body is kept. A body that may not
        be sent is refused, with the reason `forbidden`, and leaves the others as they are.

        Args:
            texts: Not compressed.
            grant: Of their sender.
            about: Attributes of each for the mapping, where there is one.

        Returns:
            What became of them, in their order, each for one or several in a row.
        """
        if self.mapper is not None:
            return self._mapped(self.mapper, texts, grant, about or [NOTHING] * len(texts))
        if len(texts) > 1:
            taken = self._take_together(texts, grant)
            if taken is not None:
                return [taken]
            half = len(texts) // 2  # whatever is the matter with one of them, most are read together
            return self.take_each(texts[:half], grant) + self.take_each(texts[half:], grant)
        try:
            return [Taken(len(texts), *self.take(texts[0], grant))] if texts else []
        except ForbiddenError as error:
            return [Taken(1, none_accepted(FORBIDDEN, str(error)), None)]

    def _mapped(
        self, mapper: Mapper, texts: Sequence[bytes], grant: Grant, about: Sequence[Mapping[str, str]]
    ) -> list[Taken]:
        given = [
            mapper.put(text, attributes, grant, self.clock.now(), alone=False)
            for text, attributes in zip(texts, about, strict=True)
        ]
        return [Taken(1, pending.verdict, pending) for pending in given]

    def _take_columns(self, columns: Columns, grant: Grant) -> tuple[Verdict, Pack | Together | None]:
        """Publish points that were mapped."""
        now = self.clock.now()
        self._check(columns, grant)
        verdict = verdict_on(columns)
        chosen = self._within_series(columns, grant, verdict) if grant.max_series or self._max_series else None
        grant.charge(verdict.accepted)
        if not verdict.accepted:
            return verdict, None
        if chosen is None and self._each_once(columns):
            text = b"\n".join(lines(columns, range(len(columns.series))))
            if len(text) <= self._most_bytes:
                return verdict, self._pack(text, columns, grant.project, now, joined=True)
        left = range(len(columns.series)) if chosen is None else chosen
        return verdict, self._in_parts(columns, left, grant.project, now)

    def _each_once(self, columns: Columns) -> bool:
        """Whether no point has two values: one message has one, or else the greater is kept and not the later."""
        return len(set(zip(columns.series, columns.event_time, strict=True))) == len(columns.series)

    def _take_together(self, texts: Sequence[bytes], grant: Grant) -> Taken | None:
        """Take texts that are good as lines of one; None: nothing is taken, and each has to be looked at by itself."""
        text = b"\n".join(texts)
        # each line is an object of its own, whatever the others are
        if text.count(b"}\n{") != text.count(b"\n") or not text.startswith(b"{"):
            return None
        now = self.clock.now()
        columns = Columns()
        message = Message(text, {"project": grant.project}, now, "")
        if len(text) > self._most_bytes or not self._decoder.at_once(message, text, columns, now):
            return None
        try:
            self._check(columns, grant)
        except ForbiddenError:
            return None
        verdict = verdict_on(columns)
        if (grant.max_series or self._max_series) and self._within_series(columns, grant, verdict) is not None:
            return None
        if not self._each_once(columns):
            return None
        grant.charge(verdict.accepted)
        return Taken(len(texts), verdict, self._pack(text, columns, grant.project, now, joined=True))

    async def drained(self) -> None:
        """Wait until nothing is on its way to the bus or the disk."""
        if self.mapper is not None:
            await self.mapper.drained()
        await self.publisher.drained()
        while self._keeping:
            await asyncio.wait(self._keeping)

    def _check(self, columns: Columns, grant: Grant) -> None:
        for key in columns.keys:
            if key.project != grant.project:
                raise ForbiddenError(f"The token is for the project {grant.project!r}: leave `project` out.")
            if grant.source is not None and key.source != grant.source:
                raise ForbiddenError(f"The token is for the source {grant.source!r} only.")

    def _within_series(self, columns: Columns, grant: Grant, verdict: Verdict) -> list[int] | None:
        """The points of series that the project may have, where not all are; the others are told in the verdict."""
        most = grant.max_series or self._max_series
        known = self._series.setdefault(grant.project, set())
        beyond: set[int] = set()
        for number, key in enumerate(columns.keys):
            name = hash((key.source, key.metric))
            if name in known:
                continue
            if len(known) < most:
                known.add(name)
            else:
                beyond.add(number)
        if not beyond:
            return None
        refused = [at for at, series in enumerate(columns.series) if series in beyond]
        verdict.accepted -= len(refused)
        verdict.refused[SERIES_LIMIT] = len(refused)
        detail = f"the project has its {most} series, and this one is new"
        for at in refused[: LISTED - len(verdict.rejected)]:
            verdict.rejected.append(Rejected(position(at, columns), SERIES_LIMIT, detail))
        return [at for at, series in enumerate(columns.series) if series not in beyond]

    def _pack(self, line: bytes, columns: Columns, project: str, now: int, *, joined: bool) -> Pack:
        """Put a text that is good as it is into one of its own, or, if it may be joined to others, into that of its window."""
        times = columns.event_time
        earliest = times[0] if len(times) == 1 else _least(times)
        if not joined or len(line) > _JOINED_BYTES or len(times) > _JOINED_POINTS:
            return self._alone(line, earliest, project, now)
        window, latest = earliest // self._window_us, max(times)
        if latest // self._window_us != window:
            return self._alone(line, earliest, project, now)
        points = [hash((columns.keys[series], at)) for series, at in zip(columns.series, times, strict=True)]
        packs = self._packs.setdefault(project, {})
        pack = packs.get(window)
        if pack is not None and pack.takes(line, latest, points):
            pack.add(line, earliest, points)
            self.publisher.grew(len(line) + 1)
            return pack
        if len(packs) >= OPEN_PACKS:
            packs.clear()
        pack = packs[window] = self._new(project, now, window)
        pack.add(line, earliest, points)
        self._put(pack)
        return pack

    def _in_parts(self, columns: Columns, chosen: Sequence[int], project: str, now: int) -> Together:
        """Write the points anew, in as many messages as they need: a batch's head may be in each of its points then."""
        packs: list[Pack] = []
        for part in self._parts(lines(columns, chosen)):
            numbers, chosen = chosen[: len(part)], chosen[len(part) :]
            earliest = min(columns.event_time[at] for at in numbers)
            packs.append(self._alone(b"\n".join(part), earliest, project, now))
        return Together(packs)

    def _parts(self, texts: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        begin = size = 0
        for end, text in enumerate(texts):
            size += len(text) + 1
            if size > self._most_bytes and end > begin:
                yield texts[begin:end]
                begin, size = end, len(text) + 1
        yield texts[begin:]

    def _alone(self, text: bytes, earliest: int, project: str, now: int) -> Pack:
        # what is accepted after this must not join a pack that was begun before: it would count as older than this
        self._packs.pop(project, None)
        pack = self._new(project, now, None)
        pack.add(text, earliest, ())
        self._put(pack)
        return pack

    def _new(self, project: str, now: int, window: int | None) -> Pack:
        def closed(pack: Pack) -> None:
            packs = self._packs.get(project)
            if packs is not None and window is not None and packs.get(window) is pack:
                del packs[window]
                if not packs:
                    del self._packs[project]

        most = min(PACK_BYTES, self._most_bytes)
        return Pack(
            project, now, self.limits.max_future_us, most, closed, self._spool if self.spool is not None else None
        )

    def _put(self, pack: Pack) -> None:
        """Publish it; while the bus is known to be away, straight to the disk."""
        trouble = self.publisher.trouble
        if trouble is None:
            self.publisher.put(pack)
            return
        pack.close()
        if self.spool is None:
            pack.fail(trouble)
        else:
            self._spool(pack)

    def _spool(self, pack: Pack) -> None:
        assert self.spool is not None
        kept = self.spool.keep(pack.project, pack.message)
        self._keeping.add(kept)

        def done(kept: asyncio.Future[None]) -> None:
            self._keeping.discard(kept)
            error = kept.exception()
            if error is None:
                pack.kept(spooled=True)
            else:
                pack.fail(error if isinstance(error, TidemarkError) else UnavailableError(f"Not kept: {error}."))

        kept.add_done_callback(done)
