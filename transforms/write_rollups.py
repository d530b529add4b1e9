"""Appends rollups to BigQuery, previews and settled rows alike; marks die only after their rows are durable there."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import msgspec
import numpy as np

from tidemark.errors import MisconfiguredError, TidemarkError, UnavailableError
from tidemark.failpoints import reach
from tidemark.logs import log
from tidemark.store.dead_letters import project_of
from tidemark.wire.block import DeadLetter
from tidemark.wire.reasons import Reason
from tidemark.wire.summary import ROLLUP, Rollups
from transforms.counters import count, count_by_project, count_waiting, observe
from transforms.prometheus import NOWHERE, Endpoint, serve
from transforms.resources import Store, Warehouse
from transforms.rollup_batch import RollupBatch


@dataclass(eq=False)
class WriteRollups(beam.PTransform):
    """`RollupBatch`es to the table `rollups`.

    Guarantee: settled rows either become durable, and then their marks die, or keep their marks and are settled again
    later. Previews that cannot be appended within the warehouse's deadline are dropped and counted: a settled row
    will say more.

    Args:
        store: For the names of series, and for the marks.
        warehouse: BigQuery.
        metrics: Where the worker serves its own.
    """

    store: Store
    warehouse: Warehouse
    metrics: Endpoint = NOWHERE

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, batches: Any) -> Any:
        """One ParDo, out of which nothing comes.

        But it has an output that another stage takes: of a stage without one Prism awaits the end of a bundle in a
        loop that never rests, all the time that BigQuery takes (Beam 2.77, prism/internal/stage.go: a closed channel
        in its `select`).
        """
        written = batches | beam.ParDo(_Append(self.store, self.warehouse, self.metrics)).with_output_types(None)
        return (written,) | "written" >> beam.Flatten()


def append(store: Store, warehouse: Warehouse, rows: Rollups, panes: str | list[str]) -> None:
    """Append rows and return when they are durable.

    A settled row that BigQuery refuses for its content can never be appended: it becomes a dead letter, and `tidemark
    verify` names it. A preview is only counted. So is one of a series whose number went lost with the last seconds of a
    database that failed over: the engine's state may outlive it.

    Raises:
        UnavailableError, MisconfiguredError: the database or BigQuery is away or not as it must be.
    """
    if not len(rows):
        return
    reach("rollups.append")
    began = time.perf_counter()
    numbers = np.unique(rows["series_id"]).tolist()
    names = store.series().names(numbers)
    if lost := [number for number in numbers if number not in names]:
        if panes == "settled":
            raise UnavailableError(f"The database does not know the series {lost[0]}, of which there are settled rows.")
        kept = ~np.isin(rows["series_id"], lost)
        count("previews_dropped", int(np.count_nonzero(~kept)))
        rows = rows[kept]
        panes = panes if isinstance(panes, str) else [pane for pane, keep in zip(panes, kept, strict=True) if keep]
        if not len(rows):
            return
    refused = warehouse.writer(store.identity()).append(rows, [names[i] for i in rows["series_id"].tolist()], panes)
    observe("append_ms", (time.perf_counter() - began) * 1000)
    if not refused:
        return
    count("rollups_refused", len(refused))
    log.error("BigQuery refuses %d rollup rows, the first because: %s", len(refused), refused[0].message)
    if panes == "settled":
        letters = [_dead(rows[bad.row], names[int(rows[bad.row]["series_id"])], bad.message) for bad in refused]
        store.keep(letters)
        for letter in letters:
            count_by_project("dead_lettered_by_project", letter.points, project_of(letter), letter.reason)


def _dead(row: Any, name: tuple[str, str, str], message: str) -> DeadLetter:
    told = dict(zip(("project", "source", "metric"), name, strict=True))
    told |= {column: row[column].item() for column in ROLLUP.names or () if column != "series_id"}
    identity = f"rollup/{'/'.join(name)}/{row['tier_s']}@{row['window_start']}/{row['revision']}"
    published = int(row["last_publish_time"])
    data = msgspec.json.encode(told)
    return DeadLetter(identity, -1, data, {}, "write_rollups", Reason.REFUSED_BY_BIGQUERY, message, published)


class _Append(beam.DoFn):
    def __init__(self, store: Store, warehouse: Warehouse, metrics: Endpoint) -> None:
        self._store, self._warehouse, self._metrics = store, warehouse, metrics

    def setup(self) -> None:
        serve(self._metrics)

    def start_bundle(self) -> None:
        self._previews: list[RollupBatch] = []
        self._down = False

    def process(self, batch: RollupBatch) -> Iterator[None]:
        if batch.pane == "settled":
            self._append_settled(batch)
        else:
            self._previews.append(batch)
        yield from ()

    def finish_bundle(self) -> None:
        if not self._previews:
            return
        rows = np.concatenate([batch.rollups() for batch in self._previews])
        panes = np.repeat([batch.pane for batch in self._previews], [len(batch.rollups()) for batch in self._previews])
        shown = self._warehouse.shown()
        news = shown.news(rows, panes == "on_time")
        count("previews_unchanged", len(rows) - int(np.count_nonzero(news)))
        rows, panes = rows[news], panes[news]
        if not len(rows):
            return
        if self._try_append(rows, panes.tolist()):
            shown.acknowledged(rows, panes == "on_time")
            count("previews", len(rows))
            for pane, number in Counter(panes.tolist()).items():
                count(f"previews_{pane}", number)
        else:
            count("previews_dropped", len(rows))

    def _append_settled(self, batch: RollupBatch) -> None:
        rows = batch.rollups()
        # after one failure the rest of the bundle would only wait as well; its marks bring it back
        if self._down or not self._try_append(rows, "settled"):
            count("settled_deferred", len(rows))
            return
        reach("settle.appended")
        try:
            self._store.settler().forget(batch.mark_ids)
        except (UnavailableError, MisconfiguredError) as error:
            count("settled_deferred", len(rows))  # they will be appended once more, with the same content
            self._failed(error)
            log.warning("%s Settled rows wait.", error)
            return
        count("settled", len(rows))
        count("corrected", batch.corrected)
        count("refreshed", batch.refreshed)

    def _try_append(self, rows: Rollups, panes: str | list[str]) -> bool:
        try:
            append(self._store, self._warehouse, rows, panes)
        except (UnavailableError, MisconfiguredError) as error:
            count("append_failures")
            self._failed(error)
            log.warning("%s Settled rows wait; previews are dropped meanwhile.", error)
            return False
        return True

    def _failed(self, error: TidemarkError) -> None:
        self._down = True
        count_waiting(error)
