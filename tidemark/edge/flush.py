"""Publishes what a spool holds: beside a running edge, or by itself where its node was lost."""

from __future__ import annotations

import asyncio
from typing import Final

from tidemark.bus.publisher import Publisher
from tidemark.edge.spool import Record, Spool
from tidemark.errors import RefusedError, TidemarkError

WAIT_S: Final = 1.0


class _Sent:
    """A record on its way; an `Item` of the publisher."""

    __slots__ = ("outcome", "record", "size")

    def __init__(self, record: Record) -> None:
        self.record, self.size = record, len(record.message)
        self.outcome: asyncio.Future[TidemarkError | None] = asyncio.get_running_loop().create_future()

    def close(self) -> bytes:
        return self.record.message

    def done(self, error: TidemarkError | None) -> None:
        self.outcome.set_result(error)


async def drain(spool: Spool, publisher: Publisher, *, for_ever: bool = True) -> None:
    """Publish what is in the spool, and what comes into it.

    Args:
        spool: Open.
        publisher: Of its topic.
        for_ever: Otherwise until nothing is left.
    """
    await spool.drain(lambda records: _published(records, publisher), for_ever=for_ever)


async def _published(records: list[Record], publisher: Publisher) -> list[Record]:
    """Publish until all are confirmed; returns those that are refused for good."""
    refused: list[Record] = []
    while records:
        sent = [_Sent(record) for record in records]
        for item in sent:
            publisher.put(item)
        outcomes = await asyncio.gather(*(item.outcome for item in sent))
        known = list(zip(records, outcomes, strict=True))
        refused += [record for record, error in known if isinstance(error, RefusedError)]
        records = [record for record, error in known if error is not None and not isinstance(error, RefusedError)]
        if records:
            await asyncio.sleep(WAIT_S)
    return refused
