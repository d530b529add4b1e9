"""Points as the text of a message: what a sender that has columns, and no text of its own, publishes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from tidemark.wire.block import Columns
from tidemark.wire.message import LEAST_US, moment

_TEXT: Final = msgspec.json.Encoder()


def lines(columns: Columns, chosen: Sequence[int]) -> list[bytes]:
    """JSON lines, a point each, without their project and line feeds.

    Args:
        columns: Where they are.
        chosen: Which of them.
    """
    heads: dict[int, bytes] = {}
    parts: list[bytes] = []
    for at in chosen:
        series = columns.series[at]
        head = heads.get(series)
        if head is None:
            key = columns.keys[series]
            head = heads[series] = b'{"source":%b,"metric":%b,"event_time":' % (
                _TEXT.encode(key.source),
                _TEXT.encode(key.metric),
            )
        micros = columns.event_time[at]
        # as a number, what is earlier would be taken for seconds
        time = _TEXT.encode(moment(micros)) if micros % 1000 or micros < LEAST_US else b"%d" % (micros // 1000)
        attributes = columns.attributes[at]
        tail = b"}" if attributes is None else b',"attributes":%b}' % attributes
        parts.append(head + time + b',"value":' + _TEXT.encode(columns.value[at]) + tail)
    return parts
