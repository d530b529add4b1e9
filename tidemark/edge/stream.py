"""A connection over which messages come one after the other, each acknowledged when it is kept, in the order they came.

What is read is handed to the intake in as few calls as possible. Nothing more is read while too much is not acknowledged, while
there is no room (`tidemark.edge.budget`), while the sender's quota is used up, and while it does not take its answers. There
are no timers: `sweep` is called for all connections once a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from functools import partial
from typing import Any, Final

from tidemark.edge.budget import GROUP_BYTES, Budget
from tidemark.edge.contract import REFUSED_BY_BUS
from tidemark.edge.counters import Counters
from tidemark.edge.intake import Intake
from tidemark.edge.tokens import Grant, Tokens
from tidemark.edge.verdict import Verdict, none_accepted
from tidemark.errors import RefusedError, TidemarkError
from tidemark.logs import log
from tidemark.net.peers import Peers

UNREAD_BYTES: Final = 16 << 10
"""Of answers that the kernel does not take, before nothing more is read."""
SLOW_BYTES_A_SECOND: Final = 16 << 10
GROUPS: Final = 128
"""Not answered yet, of one connection."""
APART: Final = 8
"""Messages, and of those that came together a fourth at least, that had to be looked at one by one, before others have their
turn: it takes ten times as long."""
HALVINGS: Final = 10
"""Of what is taken at once of a connection that sends many such."""
LINGER_S: Final = 2.0
_RESERVED_FROM: Final = 4 << 10
"""What waits for its rest is counted from so many bytes on."""


@dataclass
class Desk:
    """What connections share.

    Attributes:
        intake: Where messages go.
        tokens: Of those who may send.
        budget: Of bytes in flight.
        counters: Told of everything.
        peers: Those that are open.
        slow_s: How long a client may take to say who it is, to send a message (and a second more for each 16 KiB of it), and
            to take its answers.
        longest: Most bytes of a message.
        names: A certificate's common name is a project, and its bearer needs no token.
    """

    intake: Intake
    tokens: Tokens
    budget: Budget
    counters: Counters
    peers: Peers
    slow_s: float
    longest: int
    names: bool = False


class Hold(IntFlag):
    """Why nothing is read."""

    UNANSWERED = 1
    BUDGET = 2
    QUOTA = 4
    UNREAD = 8
    ENDING = 16


class Group:
    """Messages in a row with one outcome.

    Attributes:
        marks: Of each, whatever its acknowledgement needs.
        verdict: On their points.
        outcome: Whether they are on the disk instead of in the bus, or the error; None: nobody knows yet.
        reserved: Bytes of the budget that they hold.
    """

    __slots__ = ("began", "marks", "outcome", "reserved", "verdict")

    def __init__(self, marks: Sequence[Any], verdict: Verdict, reserved: int, began: float) -> None:
        self.marks, self.verdict, self.reserved, self.began = marks, verdict, reserved, began
        self.outcome: bool | TidemarkError | None = None


class Stream(asyncio.BufferedProtocol):
    """One connection; what is spoken is up to its kind."""

    __slots__ = (
        "_apart",
        "_began",
        "_closing_since",
        "_desk",
        "_digest",
        "_ended",
        "_flushes",
        "_grant",
        "_halvings",
        "_heard",
        "_held",
        "_order",
        "_partial_reserved",
        "_partial_since",
        "_rest",
        "_sent_all",
        "_timer",
        "_transport",
        "_unanswered",
        "_unread_since",
    )
    name = ""
    """Of what is spoken, for counters."""
    unanswered_messages = 100

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._transport: asyncio.Transport | None = None
        self._grant: Grant | None = None
        self._digest = b""
        """Of the token, where it was one that let it in."""
        self._began = self._heard = time.monotonic()
        self._rest: bytearray | None = None
        self._partial_since = 0.0
        self._partial_reserved = 0
        self._order: list[Group] = []
        self._unanswered = self._apart = self._halvings = 0
        self._held = Hold(0)
        self._flushes = self._ended = self._sent_all = False
        self._unread_since = self._closing_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # what a kind of them does

    def parse(self, data: bytes) -> int:
        """Take what is whole, until it is held; returns how many bytes that is."""
        raise NotImplementedError

    def whole(self, rest: bytearray, came: int) -> bool:
        """Whether something of what waits may be whole, `came` being how many bytes of it are new."""
        raise NotImplementedError

    def needs(self) -> int:
        """How many bytes of room what waits for its rest is to have."""
        raise NotImplementedError

    def answered(self, group: Group) -> bytes:
        """The acknowledgement of messages that are kept or refused for ever."""
        raise NotImplementedError

    def told(self) -> bytes:
        """What is said after the acknowledgements that are written together."""
        return b""

    def failed(self, error: TidemarkError) -> None:
        """Messages are not kept, and their sender has to send them again: end."""
        raise NotImplementedError

    def overdue(self, why: str) -> None:
        """A deadline is passed: end."""
        raise NotImplementedError

    def revoked(self) -> None:
        """The token is not in force any more: end."""
        raise NotImplementedError

    def drained(self) -> None:
        """Everything that came is answered, and nothing more is wanted: end."""
        raise NotImplementedError

    # of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound how many there are."""
        self._transport = made = transport  # type: ignore[assignment]
        made.set_write_buffer_limits(UNREAD_BYTES)  # type: ignore[attr-defined]
        desk = self._desk
        desk.peers.all.add(self)
        desk.peers.fit()
        if desk.peers.beyond() > 0:
            self.count("too_many")
            made.abort()  # type: ignore[attr-defined]

    def connection_lost(self, _error: Exception | None) -> None:
        """What is on its way to the bus goes on; nobody is told any more."""
        self._desk.peers.all.discard(self)
        self._give_back_partial()
        self._rest = self._transport = None
        self._wait_no_more()

    def get_buffer(self, _size: int) -> memoryview:
        """All read into the same one: what is read is taken out before the next read."""
        return self._desk.peers.buffer

    def buffer_updated(self, size: int) -> None:
        """Take what was read."""
        if self._transport is None or self._held & Hold.ENDING:
            return
        data = bytes(self._desk.peers.buffer[:size])
        rest = self._rest
        if rest is None and not self._held:
            self._go_on(data)
            return
        rest = self._rest = bytearray() if rest is None else rest
        rest += data
        if not self._held:
            if self.whole(rest, size):
                self._go_on(bytes(rest))
            else:
                self._reserve_partial()

    def pause_writing(self) -> None:
        """The client does not take its answers."""
        self._unread_since = time.monotonic()
        self.hold(Hold.UNREAD)

    def resume_writing(self) -> None:
        """It does again."""
        self._unread_since = 0.0
        asyncio.get_running_loop().call_soon(self._read_again)

    # of peers

    @property
    def at_work(self) -> bool:
        """Something is not acknowledged, or its acknowledgement may not have come."""
        return bool(self._order) or self._closing_since > 0

    def shut_down(self) -> None:
        """Take no more, and end once what came is acknowledged."""
        self._ended = True
        self.hold(Hold.ENDING)
        if not self._order:
            self.drained()

    def close(self) -> None:
        """Close it once what was answered is written, and had time to come.

        A socket that is closed with unread bytes in it is reset, and what was answered may be lost with it: so what still
        comes is passed over until the client ends it too.
        """
        transport = self._transport
        if transport is None or self._closing_since or transport.is_closing():
            return
        self._held |= Hold.ENDING
        self._closing_since = time.monotonic()
        if self._sent_all or not transport.can_write_eof():  # TLS cannot be half closed
            transport.close()
        else:
            transport.write_eof()
            transport.resume_reading()

    def sweep(self, now: float) -> None:
        """Close what is past a deadline."""
        transport, slow_s = self._transport, self._desk.slow_s
        if transport is None:
            return
        if self._closing_since:
            if now - self._closing_since > LINGER_S + slow_s:
                transport.abort()
            elif now - self._closing_since > LINGER_S and not transport.is_closing():
                transport.close()
        elif transport.is_closing():
            self._closing_since = now
        elif self._unread_since and now - self._unread_since > slow_s:
            self.count("unread")
            transport.abort()
        elif self._grant is None:
            if now - self._began > slow_s:
                self.overdue("nobody said who it is")
        elif (
            self._rest is not None
            and (not self._held or self._partial_reserved)
            and now - self._partial_since > slow_s + len(self._rest) / SLOW_BYTES_A_SECOND
        ):
            self.overdue("a message took too long to come")

    def look_again(self) -> None:
        """The tokens have changed: keep to what is granted now."""
        if self._grant is None or not self._digest:
            return
        found = self._desk.tokens.of(self._digest)
        if found is None or "write" not in found.may or found.project != self._grant.project:
            self.revoked()
        elif found is not self._grant:
            self._grant = found
            self._wait_no_more()
            self.release(Hold.QUOTA)

    # for the kinds

    def count(self, why: str) -> None:
        """An end of a connection, and why."""
        self._desk.counters.count("disconnects", 1, self.name, why)

    def hold(self, why: Hold) -> None:
        """Read nothing more for this reason."""
        if not self._held and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._held |= why

    def release(self, why: Hold) -> None:
        """The reason is gone; go on with what has come meanwhile."""
        if not self._held & why:
            return
        self._held &= ~why
        transport = self._transport
        if self._held or transport is None or transport.is_closing():
            return
        if not self._partial_reserved:
            self._partial_since = time.monotonic()  # it was not listened to
        self._go_on(bytes(self._rest or b""))
        if not self._held and not transport.is_closing():
            transport.resume_reading()

    def let_others(self) -> None:
        """Read on when they have had their turn."""
        self.hold(Hold.UNANSWERED)
        self._flush_soon()

    def write(self, data: bytes) -> None:
        """Answer."""
        if data and self._transport is not None and not self._closing_since and not self._transport.is_closing():
            self._transport.write(data)

    def room(self, grant: Grant, size: int) -> bool:
        """Whether there is room for messages of so many bytes, which is taken then; if not, it is held until there may be."""
        if self._desk.budget.take(grant.project, size):
            return True
        self._wait_for_room()
        return False

    def within_quota(self, grant: Grant) -> bool:
        """Whether the sender has any of its quota left; if not, it is held until it has."""
        wait_s = grant.wait_s(time.monotonic())
        if not wait_s:
            return True
        self.hold(Hold.QUOTA)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self.release, Hold.QUOTA)
        return False

    def give(
        self,
        texts: Sequence[bytes],
        marks: Sequence[Any],
        grant: Grant,
        reserved: int,
        about: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        """Hand messages over, for which there is `room`, and acknowledge them when they are kept."""
        began, at = time.monotonic(), 0
        try:
            found = self._desk.intake.take_each(texts, grant, about)
        except BaseException:
            self._desk.budget.give_back(grant.project, reserved)
            raise
        for taken in found:
            last = at + taken.bodies == len(texts)
            held = reserved if last else reserved * taken.bodies // (len(texts) - at)
            reserved -= held
            if taken.kept is not None:
                self._desk.budget.add(grant.project, GROUP_BYTES)
                held += GROUP_BYTES
            group = Group(marks[at : at + taken.bodies], taken.verdict, held, began)
            at += taken.bodies
            self._wait_for(group)
            if taken.kept is None:
                self._known(group, grant.project, outcome=False)
            else:
                taken.kept.then(partial(self._known, group, grant.project))
        apart = len(found) if len(found) > 1 or found[0].kept is None else 0
        if 4 * apart < len(texts) or self._desk.intake.mapper is not None:
            apart = 0
        self._halvings = HALVINGS if apart >= APART else max(0, self._halvings - 1)
        self._apart_more(apart)

    def refuse(self, mark: Any, reason: str, detail: str, grant: Grant) -> None:
        """A message that is none, in its turn."""
        group = Group([mark], none_accepted(reason, detail), 0, time.monotonic())
        self._wait_for(group)
        self._known(group, grant.project, outcome=False)
        self._apart_more(1)

    def _apart_more(self, number: int) -> None:
        self._apart += number
        if self._apart >= APART:
            self.let_others()

    def _wait_for(self, group: Group) -> None:
        self._order.append(group)
        self._unanswered += len(group.marks)
        if self._too_many():
            self.hold(Hold.UNANSWERED)

    def _too_many(self) -> bool:
        return self._unanswered >= self.unanswered_messages or len(self._order) >= GROUPS

    def _known(self, group: Group, project: str, outcome: bool | TidemarkError) -> None:
        counters, verdict = self._desk.counters, group.verdict
        if isinstance(outcome, RefusedError):
            group.verdict = verdict = verdict.after_all(REFUSED_BY_BUS, str(outcome))
            outcome = False
        group.outcome = outcome
        if group.reserved:
            self._desk.budget.give_back(project, group.reserved)
        if not isinstance(outcome, TidemarkError):
            if verdict.accepted:
                counters.count("points_accepted", verdict.accepted, project, "spool" if outcome else "bus")
                counters.kept(time.monotonic() - group.began)
            for reason, number in verdict.refused.items():
                counters.count("points_refused", number, project, reason)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushes and self._transport is not None:
            self._flushes = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Answer what is known, in order, in one piece."""
        self._flushes, self._apart = False, 0
        order, done = self._order, 0
        answers: list[bytes] = []
        error = None
        for group in order:
            if group.outcome is None:
                break
            done += 1
            self._unanswered -= len(group.marks)
            if isinstance(group.outcome, TidemarkError):
                error = group.outcome
                break
            answers.append(self.answered(group))
        del order[:done]
        if error is None:
            answers.append(self.told())
        self.write(b"".join(answers))
        if self._transport is None:
            return
        if error is not None:
            order.clear()
            self.failed(error)
        elif self._ended:
            if not order:
                self.drained()
        elif self._held & Hold.UNANSWERED and not self._too_many():
            self.release(Hold.UNANSWERED)

    def _go_on(self, data: bytes) -> None:
        had, self._rest = self._rest is not None, None
        self._heard = now = time.monotonic()
        self._give_back_partial()
        if len(data) > _RESERVED_FROM and not self._has_room(len(data)):
            self._rest = bytearray(data)  # while it waits it costs less as it came than taken apart
            return
        try:
            used = self.parse(data)
        except Exception:  # noqa: BLE001  # of whatever kind: it must not take the others along
            log.exception("What a client sent could not be taken.")
            self.count("broken")
            if self._transport is not None:
                self._transport.abort()
            return
        if used < len(data) and not self._held & Hold.ENDING:
            self._rest = bytearray(data[used:])
            if used or not had:
                self._partial_since = now
            self._reserve_partial()

    def _reserve_partial(self) -> None:
        """What waits for its rest takes room as well."""
        size = len(self._rest or b"")
        if self._grant is None or self._held or size <= max(_RESERVED_FROM, self._partial_reserved):
            return
        needs = self.needs()
        if self.room(self._grant, needs - self._partial_reserved):
            self._partial_reserved = needs

    def _give_back_partial(self) -> None:
        if self._partial_reserved and self._grant is not None:
            self._desk.budget.give_back(self._grant.project, self._partial_reserved)
            self._partial_reserved = 0

    def _has_room(self, size: int) -> bool:
        grant, budget = self._grant, self._desk.budget
        if grant is None or budget.fits(grant.project, size):
            return True
        self._wait_for_room()
        return False

    def _wait_for_room(self) -> None:
        if not self._held & Hold.BUDGET:
            self.hold(Hold.BUDGET)
            self._desk.budget.wait(self._room_again)

    def _room_again(self) -> bool:
        self.release(Hold.BUDGET)
        return bool(self._held & Hold.BUDGET)

    def _read_again(self) -> None:
        if not self._unread_since:
            self.release(Hold.UNREAD)

    def _wait_no_more(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
