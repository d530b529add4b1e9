"""What the pipeline does to the stores, step by step."""

from __future__ import annotations

import numpy as np
from sqlalchemy import Engine

from tidemark.local.stack import DATASET
from tidemark.store.connection import make_engine, transaction
from tidemark.store.owing import Policy
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.warehouse.clients import rest
from tidemark.warehouse.writer import RollupWriter
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT, ROLLUP, Rollups

TIERS_S = (60, 3600, 86_400)
START_US = 1_767_225_600_000_000


class Product:
    """Writes, settles and appends as the pipeline does."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.pool: Engine = make_engine(environment["TIDEMARK_DATABASE_URL"], 2, 60)
        self.series = SeriesCache(self.pool)
        self.rollups = RollupWriter(DATASET, environment["TIDEMARK_BIGQUERY_STORAGE_ENDPOINT"])

    def write(self, first: int, number: int, horizon_s: float = 0) -> None:
        rows = [(i % 3, START_US + (first + i) * 20_000_000, START_US + i, float(i)) for i in range(number)]
        keys = [SeriesKey("verify", f"s{i}", "m") for i in range(3)]
        Writer(self.pool, self.series, Policy(60, horizon_s, 0)).write(Block(keys, np.array(rows, POINT)))

    def settle(self, *, quantiles: bool = False, horizon_s: float = 0, everything: bool = False) -> None:
        settler = Settler(self.pool, TIERS_S, horizon_s, quantiles)
        while found := list(settler.due(everything)):
            for settled in found:
                self.append(settled.rows, "settled")
                settler.forget(settled.mark_ids)

    def append(self, rows: Rollups, pane: str) -> None:
        ids = rows["series_id"].tolist()
        names = self.series.names(sorted(set(ids)))
        self.rollups.append(rows, [names[i] for i in ids], pane)

    def preview(self, first: int, number: int) -> None:
        """One row for each minute and series that such a `write` touches."""
        rows = np.zeros(number, ROLLUP)
        ids = self.series.ids([SeriesKey("verify", f"s{i}", "m") for i in range(3)])
        rows["series_id"] = [ids[i % 3] for i in range(number)]
        rows["tier_s"], rows["count"] = 60, 1
        rows["window_start"] = START_US + (first + np.arange(number)) * 20_000_000 // 60_000_000 * 60_000_000
        self.append(rows, "early")

    def warehouse(self, statement: str) -> None:
        rest(DATASET).query(statement.format(rollups=f"`{DATASET}.rollups`")).result()

    def damage(self, statement: str) -> None:
        with transaction(self.pool) as connection:
            connection.exec_driver_sql(statement)
