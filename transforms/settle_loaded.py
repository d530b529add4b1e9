"""Settles what is due, rows and all, until nothing is left that was: the end of a load, and of a local run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam

from tidemark.errors import MisconfiguredError, UnavailableError
from tidemark.logs import log
from tidemark.store.settle import Settler
from transforms.counters import count
from transforms.loading import LOADING, until_stopped
from transforms.resources import Store, Warehouse
from transforms.write_rollups import append

SETTLERS: Final = 2
"""Beside each other, of a process: each waits for the database, or for BigQuery, most of the time."""


@dataclass(eq=False)
class SettleLoaded(beam.PTransform):
    """When no more comes of any part, of which the number comes in: settles what is due, and appends it to BigQuery.

    Guarantee: as of `Settle` and `WriteRollups`. While the database or BigQuery is away it waits.

    Args:
        store: The raw store.
        warehouse: BigQuery.
    """

    store: Store
    warehouse: Warehouse

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: Any) -> Any:
        """One ParDo."""
        return parts | beam.ParDo(_Settle(self)).with_output_types(None)


class _Settle(beam.DoFn):
    def __init__(self, config: SettleLoaded) -> None:
        self._config = config

    def process(self, _parts: int) -> Iterator[None]:
        settle_loaded(self._config.store, self._config.warehouse)
        yield from ()


def settle_loaded(store: Store, warehouse: Warehouse) -> None:
    """Settle what is due or owed by archives; windows that are open too, where no pipeline does it later."""
    try:
        store.summarize()
    except (UnavailableError, MisconfiguredError) as error:
        log.warning("%s Settling takes longer.", error)
    settle_due(store, warehouse)
    if until_stopped(store.is_read, count) is False:
        settle_rest(store, warehouse, everything=True)


def settle_due(store: Store, warehouse: Warehouse) -> None:
    """Settle all that is due now or owed by archives, until the load is to stop.

    What becomes due meanwhile, as beside live traffic, is left.
    """
    while not LOADING.stopping.is_set():
        began = time.monotonic()
        found = until_stopped(lambda: _settle_beside(store, warehouse), count)
        left = until_stopped(lambda: store.settler().owed_by_archives(), count)
        age_s = until_stopped(lambda: store.settler().oldest_due_s(), count)
        if not found or age_s is None or (not left and age_s < time.monotonic() - began):
            return


def settle_rest(store: Store, warehouse: Warehouse, *, everything: bool) -> None:
    """Settle until nothing is due, or, where nothing is written any more, nothing is owed at all; a load may be stopped."""
    while not LOADING.stopping.is_set() and until_stopped(
        lambda: _settle(store, warehouse, store.settler(), everything=everything), count
    ):
        pass


def _settle_beside(store: Store, warehouse: Warehouse) -> bool:
    """By several settlers, of which one settles while another one's rows are appended; whether there was anything."""
    with ThreadPoolExecutor(SETTLERS, "settle") as threads:
        found = [
            threads.submit(_settle, store, warehouse, settler, everything=False)
            for settler in store.settlers(SETTLERS, archives=True)
        ]
        return any([one.result() for one in found])  # noqa: C419  # wait for all


def _settle(store: Store, warehouse: Warehouse, settler: Settler, *, everything: bool) -> bool:
    """Settle, append and forget, as the pipeline does it, until the load is to stop; whether there was anything."""
    found = False
    for settled in settler.due(everything):
        found = True
        append(store, warehouse, settled.rows, "settled")
        settler.forget(settled.mark_ids)
        count("settled", len(settled.rows))
        count("corrected", settled.corrected)
        count("refreshed", settled.refreshed)
        if LOADING.stopping.is_set():
            break
    return found
