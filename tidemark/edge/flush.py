"""Publishes what a spool holds: beside a running edge, or by itself where its node was lost."""

from __future__ import annotations

import asyncio
from typing import Final

from tidemark.bus.publisher import BYTES_A_CALL, Publisher
from tidemark.edge.spool import Record, Spool
from tidemark.errors import RefusedError, TidemarkError

AT_ONCE: Final = 2000
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

    async def publish(records: list[Record]) -> list[Record]:
        refused: list[Record] = []
        at = 0
        while at < len(records):
            some: list[Record] = []
            size = 0
            for record in records[at : at + AT_ONCE]:
                if some and size + len(record.message) > BYTES_A_CALL:
                    break
                some.append(record)
                size += len(record.message)
            refused += await _published(some, publisher)
            at += len(some)
        return refused

    await spool.drain(publish, for_ever=for_ever)


async def _published(records: list[Record], publisher: Publisher) -> list[Record]:
    """Publish until all are confirmed; returns those that are refused for good."""
    refused: list[Record] = []
    while records:
        sent = [_Sent(record) for record in records]
        for item in sent:
            publisher.put(item)
        outcomes = await asyncio.gather(*(item.outcome for item in sent))
        refused += [r for r, error in zip(records, outcomes, strict=True) if isinstance(error, RefusedError)]
        records = [
            record
            for record, error in zip(records, outcomes, strict=True)
            if error is not None and not isinstance(error, RefusedError)
        ]
        if records:
            await asyncio.sleep(WAIT_S)
    return refused
