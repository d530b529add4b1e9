"""What the stages of one worker process share: the database pool, the series cache, the BigQuery writer.

A worker process runs several bundles at once, each on its own thread, and Beam sets a DoFn up once a thread: without
sharing, connections would multiply. Only references travel with the job, never a password.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Engine

from tidemark.errors import MisconfiguredError, UsageError
from tidemark.logs import set_up_worker
from tidemark.settings import STORE, Values, read
from tidemark.store import dead_letters
from tidemark.store.agreement import agreed
from tidemark.store.connection import STATEMENT_TIMEOUT_S, make_engine, single_statement
from tidemark.store.heartbeats import beat, is_read
from tidemark.store.identity import identity
from tidemark.store.imports import Known, forget, kept_from, known, summarize
from tidemark.store.location import database_url
from tidemark.store.owing import Policy
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.sources import SourceBook
from tidemark.store.write import Writer
from tidemark.warehouse import owner
from tidemark.warehouse.clients import rest
from tidemark.warehouse.writer import RollupWriter
from tidemark.wire.block import DeadLetter
from tidemark.wire.identity import StoreIdentity
from transforms.shown import Shown

Resource = TypeVar("Resource")
_made: dict[Any, Any] = {}
_making: Final[defaultdict[Any, threading.RLock]] = defaultdict(threading.RLock)
_lock: Final = threading.Lock()


def _once(key: Any, make: Callable[[], Resource]) -> Resource:
    """What was made under this key; making one thing, which may take its service long, holds up nothing else."""
    with _lock:
        making = _making[key]
    with making:
        if key not in _made:
            set_up_worker()
            _made[key] = make()
        found: Resource = _made[key]
        return found


@dataclass(frozen=True)
class Store:
    """Where the raw store is and what its windows are like.

    What it hands out is made at the first call, which raises UnavailableError or MisconfiguredError while the secret
    cannot be read. A secret that changes is read again when a connection is refused or broken.

    Attributes:
        secret: The reference of the URL; None: the worker's environment has the URL itself.
        pool_size: Connections of one worker process.
        tiers_s, horizon_s, debounce_s: See `tidemark.settings`.
        timeout_s: How long one statement may take.
        quantiles: Settled rows have p50, p90 and p99.
    """

    secret: str | None
    pool_size: int
    tiers_s: tuple[int, ...]
    horizon_s: float
    debounce_s: float
    timeout_s: float = STATEMENT_TIMEOUT_S
    quantiles: bool = False

    @classmethod
    def of(cls, values: Values) -> Store:
        """As settings say."""
        return cls(
            values.database_secret,
            values.database_pool_size,
            values.tiers_s,
            values.horizon_s,
            values.debounce_s,
            values.database_timeout_s,
            values.quantiles,
        )

    def _pool(self) -> Engine:
        return _once(("pool", self.secret, self.pool_size, self.timeout_s), self._make_pool)

    def _make_pool(self) -> Engine:
        if self.secret is None:
            return make_engine(database_url(read(STORE, {})), self.pool_size, self.timeout_s)
        values = read(STORE, {"database_secret": self.secret}, environment={})

        def url() -> str:
            return database_url(values)

        try:
            return make_engine(url(), self.pool_size, self.timeout_s, renewed_url=url)
        except UsageError as error:
            raise MisconfiguredError(str(error)) from error

    def series(self) -> SeriesCache:
        """The process's series cache."""
        return _once(("series", self.secret), lambda: SeriesCache(self._pool()))

    def writer(self) -> Writer:
        """The process's writer of blocks."""
        policy = Policy(self.tiers_s[0], self.horizon_s, self.debounce_s)
        return _once(("writer", self), lambda: Writer(self._pool(), self.series(), policy))

    def identity(self) -> StoreIdentity:
        """Of the database that connections lead to; asked for again when there is a new one, which may lead elsewhere."""
        generation = self.series().generation
        known: tuple[int, StoreIdentity] | None = _made.get(("identity", self.secret))
        if known is None or known[0] != generation:
            with single_statement(self._pool()) as connection:
                known = self.series().generation, identity(connection)
            _made["identity", self.secret] = known
        return known[1]

    def agreed(self, values: Values) -> Values:
        """Settings as the store has them, or has them from now on; see `tidemark.store.agreement.agreed`."""
        return agreed(self._pool(), values, keep=True)

    def keep(self, letters: list[DeadLetter]) -> None:
        """Keep dead letters; see `tidemark.store.dead_letters.keep`."""
        dead_letters.keep(self._pool(), letters)

    def sources(self) -> SourceBook:
        """The process's notes on sources."""
        return _once(("sources", self), lambda: SourceBook(self._pool(), self.tiers_s[0], self.horizon_s))

    def beat(self, job: str, written_us: int | None, watermark_us: int | None, *, idle: bool) -> None:
        """Say that this process reads; see `tidemark.store.heartbeats.beat`."""
        beat(self._pool(), job, written_us, watermark_us, idle=idle)

    def known_files(self, files: Sequence[str], *, forgotten: bool) -> list[Known]:
        """What is known of archives, which is forgotten where they are loaded again; see `tidemark.store.imports`."""
        found = known(self._pool(), files)
        if forgotten:
            for one in found:
                forget(self._pool(), one.file)
        return found

    def summarize(self) -> None:
        """Bring the index by time up to what was stored; see `tidemark.store.imports.summarize`."""
        summarize(self._pool())

    def kept_from(self) -> int | None:
        """From when on points are kept; see `tidemark.store.imports.kept_from`."""
        return kept_from(self._pool())

    def is_read(self) -> bool:
        """Whether some process reads messages now; see `tidemark.store.heartbeats.is_read`."""
        return is_read(self._pool())

    def settler(self) -> Settler:
        """The process's settler."""
        return self.settlers(1)[0]

    def settlers(self, number: int, *, archives: bool = False) -> list[Settler]:
        """As many of the process's, which work beside each other; those of a load settle what archives owe as well."""
        return _once(
            ("settlers", self, number, archives),
            lambda: [
                Settler(self._pool(), self.tiers_s, self.horizon_s, self.quantiles, (share, number), archives)
                for share in range(number)
            ],
        )


@dataclass(frozen=True)
class Warehouse:
    """Where the rollups go."""

    dataset: str
    endpoint: str | None
    deadline_s: float = 20.0

    def writer(self, store: StoreIdentity) -> RollupWriter:
        """The process's writer of the rollups of this store.

        Raises:
            MisconfiguredError: the dataset holds those of another one.
            UnavailableError: BigQuery does not say whose it is.
        """
        made = _once(self, lambda: RollupWriter(self.dataset, self.endpoint, deadline_s=self.deadline_s))
        if _made.get(("owner", self.dataset)) != store:
            owner.check(rest(self.dataset), self.dataset, store)
            _made["owner", self.dataset] = store
        return made

    def shown(self) -> Shown:
        """What this process knows of the previews that are there."""
        return _once(("shown", self), Shown)


def close() -> None:
    """Close what this process shares; the next use opens it again."""
    while _made:
        _, made = _made.popitem()
        if isinstance(made, RollupWriter):
            made.close()
        elif isinstance(made, Engine):
            made.dispose()
