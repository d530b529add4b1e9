"""Series names and their numbers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from sqlalchemy import Connection, Engine, event

from tidemark.store.connection import transaction
from tidemark.wire.block import SeriesKey

CACHED_SERIES: Final = 1_000_000
"""About 300 MB when full."""

_FIND: Final = """
SELECT s.series_id, s.project, s.source, s.metric
FROM series s JOIN json_to_recordset(CAST(%s AS json)) AS k(project text, source text, metric text)
  ON s.project = k.project AND s.source = k.source AND s.metric = k.metric"""
_CREATE: Final = """
INSERT INTO series (project, source, metric)
SELECT project, source, metric
FROM json_to_recordset(CAST(%s AS json)) AS k(project text, source text, metric text)
ORDER BY project COLLATE "C", source COLLATE "C", metric COLLATE "C"
ON CONFLICT DO NOTHING"""
_NAME: Final = "SELECT series_id, project, source, metric FROM series WHERE series_id = ANY(CAST(%s AS integer[]))"

PROJECTS: Final = """
WITH RECURSIVE p AS (
    SELECT min(project) AS project FROM series
    UNION ALL
    SELECT (SELECT min(project) FROM series WHERE project > p.project) FROM p WHERE p.project IS NOT NULL
)
SELECT project FROM p WHERE project IS NOT NULL LIMIT 10000"""
"""Names of projects, by a look into the key for each."""


class SeriesCache:
    """Numbers of series, by name and back, kept after the commit that created them; safe between threads.

    A fail-over to a replica that lacks the last seconds takes numbers back, and gives them to other series. So a new
    connection forgets everything (`generation` then differs). A pooler hides that: therefore a writer also holds the
    newest number of each block against its name.
    """

    def __init__(self, pool: Engine, size: int = CACHED_SERIES) -> None:
        self._pool = pool
        self._size = size
        self._ids: OrderedDict[SeriesKey, int] = OrderedDict()
        self._keys: dict[int, SeriesKey] = {}
        self._lock = threading.Lock()
        self.generation = 0
        event.listen(pool, "connect", lambda _connection, _record: self.forget())

    def forget(self) -> None:
        """Ask the database again from now on."""
        with self._lock:
            self.generation += 1
            self._ids.clear()
            self._keys.clear()

    def ids(self, keys: Sequence[SeriesKey]) -> list[int]:
        """The number of each series; those not known yet are created, in a transaction of their own.

        Raises:
            UnavailableError, MisconfiguredError: nothing was cached.
        """
        with self._lock:
            known = {key: self._ids[key] for key in keys if key in self._ids}
        missing = sorted({key for key in keys if key not in known})
        for start in range(0, len(missing), 10_000):
            known.update(self._find_or_create(missing[start : start + 10_000]))
        return [known[key] for key in keys]

    def names(self, ids: Iterable[int]) -> dict[int, SeriesKey]:
        """The name of each number, from the cache or the database."""
        wanted = set(ids)
        with self._lock:
            known = {i: self._keys[i] for i in wanted if i in self._keys}
        missing = sorted(wanted - known.keys())
        if missing:
            with transaction(self._pool) as connection:
                generation = self.generation
                rows = connection.exec_driver_sql(_NAME, (missing,)).all()
            found = {SeriesKey(*row[1:]): row[0] for row in rows}
            self._keep(found, generation)
            known.update({i: key for key, i in found.items()})
        return known

    def _find_or_create(self, keys: list[SeriesKey]) -> dict[SeriesKey, int]:
        with transaction(self._pool) as connection:
            generation = self.generation
            found = self._find(connection, keys)
            unknown = [key for key in keys if key not in found]
            if unknown:  # looked for first: an INSERT that conflicts uses up a number all the same
                connection.exec_driver_sql(_CREATE, (_document(unknown),))
                found.update(self._find(connection, unknown))
        self._keep(found, generation)
        return found

    @staticmethod
    def _find(connection: Connection, keys: list[SeriesKey]) -> dict[SeriesKey, int]:
        rows = connection.exec_driver_sql(_FIND, (_document(keys),)).all()
        return {SeriesKey(*row[1:]): row[0] for row in rows}

    def _keep(self, found: dict[SeriesKey, int], generation: int) -> None:
        with self._lock:
            if generation != self.generation:
                return
            for key, number in found.items():
                self._ids[key] = number
                self._keys[number] = key
            while len(self._ids) > self._size:
                _, number = self._ids.popitem(last=False)
                self._keys.pop(number, None)


def _document(keys: Iterable[SeriesKey]) -> str:
    """Names as JSON: in a text array the name `null` would become a NULL."""
    return msgspec.json.encode([{"project": k.project, "source": k.source, "metric": k.metric} for k in keys]).decode()
