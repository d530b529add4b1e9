"""Lines over TCP: a first one that says who sends, then a body of the contract a line.

    {"token":"tm_…","acks":true}
    {"source":"gateway-7","metric":"fps","event_time":1769860800000,"value":24.5}

With `acks` it is answered by lines of JSON: `{"line":1200,"accepted":1198}` says that all up to the 1,200th body are kept, but
for those that were named before with the reason, `{"line":17,"reason":"not_json","detail":"…"}`. Who sends no more (a half-close,
which `nc -N` and ncat do at the end of their input) is answered when all is kept, with or without `acks`; a last line says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tidemark.edge.stream import HALVINGS, Desk, Group, Hold, Stream
from tidemark.edge.tokens import Grant, digest
from tidemark.errors import TidemarkError
from tidemark.net.tls import common_name
from tidemark.wire.body import UNREADABLE
from tidemark.wire.reasons import Reason

IDLE_S: Final = 300.0
_FIRST_BYTES: Final = 4 << 10
_BATCH_BYTES: Final = 64 << 10
_BATCH_LINES: Final = 1_500
"""So many points do not fit in so few bytes: some of them are none."""
_UNANSWERED_LINES: Final = 20_000
_NO_FIRST: Final = 'The first line has to be {"token":"…"}, and a line feed.'
_TEXT: Final = msgspec.json.Encoder()


class _First(msgspec.Struct, forbid_unknown_fields=True):
    token: str | None = None
    acks: bool = False


_FIRST: Final = msgspec.json.Decoder(_First)


class TcpConnection(Stream):
    """One connection."""

    __slots__ = (
        "_accepted",
        "_acks",
        "_begun",
        "_confirmed",
        "_line",
        "_partial",
        "_refused",
        "_skips",
        "_told",
    )
    name = "tcp"
    unanswered_messages = _UNANSWERED_LINES

    def __init__(self, desk: Desk) -> None:
        """Nobody has said who it is.

        Args:
            desk: What it shares.
        """
        super().__init__(desk)
        self._acks = self._skips = self._partial = self._begun = False
        self._line = 0
        """The body that was read last, from 1."""
        self._confirmed = self._accepted = self._refused = self._told = 0

    # of the stream

    def parse(self, data: bytes) -> int:
        """Lines, as many as are whole, until it is held."""
        at = 0
        if not self._begun:
            at = self._first(data)
            if not self._begun:
                return at
        if self._skips:
            end = data.find(b"\n", at) + 1
            if not end:
                return len(data)
            self._skips, at = False, end
        while not self._held:
            most = min(_BATCH_BYTES, self._desk.longest) >> self._halvings
            if data.count(b"\n", at, at + most) > _BATCH_LINES:
                most >>= HALVINGS
            end = data.rfind(b"\n", at, at + most) + 1 or data.find(b"\n", at + most) + 1
            if not end:
                break
            if not self._lines(data[at : end - 1]):
                return at
            at = end
        if not self._held and len(data) - at > self._desk.longest:
            self._too_long()
            self._skips = True
            return len(data)
        return at

    def whole(self, rest: bytearray, came: int) -> bool:
        """Once a line ends, or is too long."""
        longest = self._desk.longest if self._begun else _FIRST_BYTES
        return rest.find(b"\n", len(rest) - came) >= 0 or len(rest) > longest or self._skips

    def needs(self) -> int:
        """As much again as has come, since nobody knows how long the line is; of a long one all that it may have.

        Long ones that had some of their room each, and waited for more, could wait for one another.
        """
        twice, longest = 2 * len(self._rest or b""), self._desk.longest
        return longest if twice > _BATCH_BYTES else min(twice, longest)

    def answered(self, group: Group) -> bytes:
        """What is refused is named; what is kept is told with all the rest."""
        verdict = group.verdict
        self._confirmed = group.marks[-1]
        self._accepted += verdict.accepted
        if not verdict.refused:
            return b""
        number = sum(verdict.refused.values())
        self._refused += number
        if not self._acks:
            return b""
        first = verdict.rejected[0]
        found = {"line": self._confirmed, "reason": first.reason, "detail": first.detail}
        return _line(
            {**found, "refused": number, "accepted": verdict.accepted} if verdict.accepted or number > 1 else found
        )

    def told(self) -> bytes:
        """Up to where everything is kept."""
        if not self._acks or self._confirmed == self._told:
            return b""
        self._told = self._confirmed
        return _line({"line": self._confirmed, "accepted": self._accepted})

    def failed(self, error: TidemarkError) -> None:
        """Not kept: the client goes on from what is."""
        self._end("not_kept", str(error))

    def overdue(self, why: str) -> None:
        """Too slow."""
        self._end("slow", why)

    def revoked(self) -> None:
        """The token is not in force any more."""
        self._end("revoked", "The token is not in force any more.")

    def drained(self) -> None:
        """Everything that came is kept or refused."""
        if self._sent_all:
            self._end("client", "")
        else:
            self._end("drained", "This edge is about to stop: come again, to another.")

    def eof_received(self) -> bool:
        """The client sends no more; it is told once all is kept, where the connection can be half open."""
        transport = self._transport
        if transport is None or self._closing_since or not transport.can_write_eof():
            return False
        self._partial = self._rest is not None or self._skips
        if self._partial:
            self._desk.counters.count("partial_lines")
        self._sent_all = self._ended = True
        self._held |= Hold.ENDING
        self._rest = None
        self._give_back_partial()
        if self._partial and not self._begun:
            self._refuse(_NO_FIRST)
        elif not self._order:
            self.drained()
        return True

    def sweep(self, now: float) -> None:
        """Deadlines, and that of a client that sends nothing."""
        if self._grant is None and now - self._began > self._desk.slow_s:
            self._grant = self._named()  # who has a certificate need not say anything
        super().sweep(now)
        if self._grant is not None and not self._order and not self._held and now - self._heard > IDLE_S:
            self._end("idle", f"Nothing has come for {IDLE_S:.0f} s.")

    # of lines

    def _first(self, data: bytes) -> int:
        """The line that says who sends; where the bodies begin."""
        end = data.find(b"\n", 0, _FIRST_BYTES) + 1
        if not end and len(data) < _FIRST_BYTES:
            return 0
        named = self._named()
        try:
            first = _FIRST.decode(data[:end])
        except UNREADABLE:
            if named is None:
                self._refuse(_NO_FIRST)
                return end
            end = 0
        else:
            self._acks = first.acks
            if first.token:
                self._digest = digest(first.token)
                named = self._desk.tokens.of(self._digest)
            if named is None or "write" not in named.may:
                self._refuse("The token may not write." if named else "The token is not known.")
                return end
        self._grant, self._begun = named, True
        self._desk.counters.count("connects", 1, self.name, "accepted")
        return end

    def _named(self) -> Grant | None:
        if not self._desk.names or self._transport is None:
            return None
        name = common_name(self._transport.get_extra_info("peercert"))
        return Grant(name, frozenset({"write"})) if name else None

    def _lines(self, chunk: bytes) -> bool:
        """Hand lines over; False: they have to wait."""
        grant = self._grant
        assert grant is not None
        if (grant.points_per_s is not None and not self.within_quota(grant)) or not self.room(grant, len(chunk) + 1):
            return False
        lines = chunk.split(b"\n")
        first, self._line = self._line + 1, self._line + len(lines)
        numbers: Sequence[int] = range(first, self._line + 1)
        if b"\r" in chunk:
            lines = [line.rstrip(b"\r") for line in lines]
        if not all(lines):
            numbers = [number for number, line in zip(numbers, lines, strict=True) if line]
            lines = [line for line in lines if line]
        if lines and len(lines[0]) > self._desk.longest:
            self._desk.budget.give_back(grant.project, len(chunk) + 1)
            self._line -= 1
            self._too_long()
        elif lines:
            self.give(lines, numbers, grant, len(chunk) + 1)
        else:
            self._desk.budget.give_back(grant.project, len(chunk) + 1)
        return True

    def _too_long(self) -> None:
        assert self._grant is not None
        self._line += 1
        detail = f"a line may have {self._desk.longest} bytes"
        self.refuse(self._line, Reason.MESSAGE_TOO_LARGE, detail, self._grant)

    def _refuse(self, why: str) -> None:
        self._desk.counters.count("connects", 1, self.name, "not_authorized")
        self.write(_line({"error": why}))
        self.close()

    def _end(self, counted: str, error: str) -> None:
        """Say up to where everything is kept, and close."""
        if self._closing_since:
            return
        self.count(counted)
        last: dict[str, Any] = {"line": self._confirmed, "accepted": self._accepted, "refused": self._refused}
        if self._partial:
            last["partial"] = True
        last |= {"error": error} if error else {"end": True}
        self.write(_line(last))
        self.close()


def _line(found: dict[str, Any]) -> bytes:
    return _TEXT.encode(found) + b"\n"
