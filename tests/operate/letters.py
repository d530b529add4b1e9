"""A store that dead letters are put into as the pipeline puts them, and the commands about them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from sqlalchemy import Engine

from tidemark import cli
from tidemark.store.connection import transaction
from tidemark.store.ledger import totals
from tidemark.store.owing import Policy
from tidemark.store.series import SeriesCache
from tidemark.store.write import Writer
from tidemark.wire.block import Columns, DeadLetter
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message

NOW_US = time.time_ns() // 1000
AT_MS = NOW_US // 1000 - 60_000
TIERS_S = (60, 3600, 86_400)
NARROW = Limits(max_name_bytes=5)


def point(**more: Any) -> dict[str, Any]:
    return {"project": "cams", "source": "gateway-7", "metric": "fps", "event_time": AT_MS, "value": 1.5, **more}


def text(*points: Any) -> bytes:
    return b"\n".join(json.dumps(one).encode() for one in points)


class Store:
    def __init__(self, pool: Engine) -> None:
        self.pool = pool
        self.writer = Writer(pool, SeriesCache(pool), Policy(60, 0, 0))
        self._number = 0

    def take(self, data: bytes, limits: Limits = NARROW, published: int = NOW_US, **attributes: str) -> None:
        """As the pipeline does."""
        self._number += 1
        columns = Columns()
        Decoder(limits).decode(Message(data, attributes, published, f"{self._number}"), columns, NOW_US)
        self.writer.write(columns.block())

    def keep(self, letter: DeadLetter) -> None:
        columns = Columns()
        columns.dead_letters.append(letter)
        self.writer.write(columns.block())

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with transaction(self.pool) as connection:
            return [tuple(row) for row in connection.exec_driver_sql(sql, parameters or None).all()]

    def values(self) -> list[tuple[str, float]]:
        return self.rows(
            "SELECT source, value FROM points JOIN series USING (series_id) ORDER BY source, event_time, value"
        )

    def letters(self) -> list[tuple[Any, ...]]:
        return self.rows("SELECT reason, points, attempts FROM dead_letters ORDER BY id")

    def balanced(self) -> bool:
        with transaction(self.pool) as connection:
            account = totals(connection)
            stored = connection.exec_driver_sql("SELECT count(*) FROM points").scalar_one()
        return account.unbalanced == 0 and account.inserted - account.removed == stored


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    status = cli.main(list(arguments))
    said = capsys.readouterr()
    return status, said.out or said.err


def redrive(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    status, said = run(capsys, "redrive", "--json", *arguments)
    found: dict[str, Any] = json.loads(said)
    assert status == (1 if found["still"] else 0)
    return found
