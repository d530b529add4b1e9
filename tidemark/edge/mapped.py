"""Bodies of any JSON at the edge: mapped in turn, beside the loop, and then taken as if they had been sent so."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final

from tidemark.edge.contract import FORBIDDEN
from tidemark.edge.tokens import Grant
from tidemark.edge.verdict import Verdict, none_accepted
from tidemark.errors import TidemarkError, UnavailableError
from tidemark.logs import log
from tidemark.mapping.mapped import Mapped, MappedDecoder
from tidemark.mapping.runner import BYTES_AT_ONCE
from tidemark.wire.block import Columns
from tidemark.wire.message import Message

Told = Callable[[bool | TidemarkError], None]
_AT_ONCE: Final = 500


class ForbiddenError(TidemarkError):
    """Points of another project or source than the token's: none of the body is taken."""


class Pending:
    """A body that is to be mapped and kept; told once, to whoever asked by then or asks later."""

    __slots__ = ("_outcome", "_told", "alone", "grant", "message", "verdict")

    def __init__(self, message: Message, grant: Grant, *, alone: bool) -> None:
        self.message, self.grant, self.alone = message, grant, alone
        self.verdict = Verdict(0)
        """Filled when it is known."""
        self._told: list[Told] = []
        self._outcome: bool | TidemarkError | None = None

    def then(self, told: Told) -> None:
        """Tell it whether it is on the disk instead of in the bus, or the error; as of `tidemark.edge.pack.Pack`."""
        if self._outcome is None:
            self._told.append(told)
        else:
            told(self._outcome)

    def known(self, outcome: bool | TidemarkError) -> None:
        """It is kept, refused for ever (the verdict says so), or not kept."""
        self._outcome = outcome
        told, self._told = self._told, []
        for one in told:
            one(outcome)


class Mapper:
    """One for a process: a queue, and a thread that awaits jq.

    Args:
        decoder: Of the mapping.
        publish: Publishes points that were mapped, and tells the verdict on them and what they are in; raises ForbiddenError.
        filtered: Told how many values of a project were filtered.
    """

    def __init__(
        self,
        decoder: MappedDecoder,
        publish: Callable[[Columns, Grant], tuple[Verdict, object]],
        filtered: Callable[[int, str], None],
    ) -> None:
        self._decoder, self._publish, self._filtered = decoder, publish, filtered
        self._queue: deque[Pending] = deque()
        self._thread = ThreadPoolExecutor(1, "mapping")
        self._work: asyncio.Task[None] | None = None

    def put(self, text: bytes, attributes: Mapping[str, str], grant: Grant, now_us: int, *, alone: bool) -> Pending:
        """Have a body mapped, after those before it.

        Args:
            text: Not compressed.
            attributes: That the mapping sees.
            grant: Of its sender.
            now_us: When it came.
            alone: What may not be sent is an error, ForbiddenError, and not a verdict.
        """
        message = Message(text, {"project": grant.project, **attributes}, now_us, "")
        made = Pending(message, grant, alone=alone)
        self._queue.append(made)
        if self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._run())
        return made

    async def drained(self) -> None:
        """Wait until all is mapped."""
        while self._work is not None:
            await asyncio.wait([self._work])

    def close(self) -> None:
        """End jq's process."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._decoder.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                some = self._some()
                messages = [one.message for one in some]
                try:
                    found = await loop.run_in_executor(
                        self._thread, self._decoder.each, messages, messages[-1].publish_time
                    )
                except TidemarkError as error:
                    self._fail(some, error)
                except Exception:  # noqa: BLE001  # of whatever kind: those after these are to be mapped all the same
                    log.exception("Bodies could not be mapped.")
                    self._fail(some, UnavailableError("It could not be mapped; this is in the log."))
                else:
                    for one, mapped in zip(some, found, strict=True):
                        self._take(one, mapped)
        finally:
            self._work = None

    def _some(self) -> list[Pending]:
        """Those that are mapped together: about a megabyte."""
        number = size = 0
        for one in islice(self._queue, _AT_ONCE):
            size += len(one.message.data)
            if number and size > BYTES_AT_ONCE:
                break
            number += 1
        return [self._queue.popleft() for _ in range(number)]

    def _take(self, one: Pending, mapped: Mapped) -> None:
        if mapped.filtered:
            self._filtered(mapped.filtered, one.grant.project)
        try:
            verdict, kept = self._publish(mapped.columns, one.grant)
        except ForbiddenError as error:
            if one.alone:
                one.known(error)
            else:
                one.verdict.become(none_accepted(FORBIDDEN, str(error)))
                one.known(outcome=False)
            return
        one.verdict.become(verdict)
        if kept is None:
            one.known(outcome=False)
        else:
            kept.then(one.known)  # type: ignore[attr-defined]  # a Pack, or several together

    def _fail(self, some: list[Pending], error: TidemarkError) -> None:
        for one in some:
            one.known(error)
