"""A set of stand-ins: Pub/Sub, PostgreSQL, BigQuery, with all their state under one directory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tidemark.edge.tokens import RIGHTS, line_of, new_token
from tidemark.errors import LocalError
from tidemark.local import cache, prism
from tidemark.local.bigquery import BigQuery
from tidemark.local.install import side_by_side
from tidemark.local.postgres import Postgres
from tidemark.local.processes import Process, free_port, keeps, listens, start, wait_ready

GCP_PROJECT: Final = "tidemark-local"
TOPIC: Final = f"projects/{GCP_PROJECT}/topics/points"
SUBSCRIPTION: Final = f"projects/{GCP_PROJECT}/subscriptions/ingest"
DATASET: Final = f"{GCP_PROJECT}.tidemark"
PROJECT: Final = "local"
"""Of the token that `up` makes."""
ACK_DEADLINE_S: Final = 60


@dataclass
class PubSub:
    """Our Pub/Sub server as a process; it keeps what was published through a kill."""

    directory: Path

    @property
    def pid_file(self) -> Path:
        """Where its process is remembered."""
        return self.directory / "pid"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.directory / "log"

    def port(self) -> int:
        """The same after a restart where it is free."""
        return int((self.directory / "port").read_text())

    def process(self) -> Process | None:
        """The running server."""
        return Process.read(self.pid_file)

    def start(self) -> None:
        """Start it, unless it runs.

        Raises:
            LocalError: it cannot be started.
        """
        if self.process() is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        saved = self.directory / "port"
        if not saved.exists() or not keeps([self.port()]):
            saved.write_text(str(free_port()))
        command = [sys.executable, "-m", "tidemark.local.pubsub", "--port", str(self.port()), "--state"]
        process = start([*command, self.directory / "journal"], self.log)
        process.write(self.pid_file)
        wait_ready(process, self.log, lambda: listens(self.port()), "The Pub/Sub stand-in")

    def stop(self) -> None:
        """Stop it."""
        process = self.process()
        if process is not None:
            process.stop()
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill it, as a failing machine would."""
        process = self.process()
        if process is not None:
            process.kill()


@dataclass
class Stack:
    """The stand-ins of one state directory; several sets run side by side."""

    state: Path
    pubsub: PubSub = field(init=False)
    postgres: Postgres = field(init=False)
    bigquery: BigQuery = field(init=False)

    def __post_init__(self) -> None:
        self.state = self.state.absolute()
        self.pubsub = PubSub(self.state / "pubsub")
        self.postgres = Postgres(self.state / "postgres")
        self.bigquery = BigQuery(self.state / "bigquery", GCP_PROJECT)

    def servers(self) -> dict[str, PubSub | Postgres | BigQuery]:
        """All of them, by name."""
        return {"pubsub": self.pubsub, "postgres": self.postgres, "bigquery": self.bigquery}

    def up(self, ack_deadline_s: int = ACK_DEADLINE_S) -> dict[str, str]:
        """Start what does not run, and make topic, subscription, dataset and schema where they are missing.

        Returns:
            The environment that leads to them: see `environment`.

        Raises:
            LocalError: one of them cannot be started; those this call started are stopped again.
        """
        self._make_directory()
        with cache.locked(self.state / "lock"):
            servers = list(self.servers().values())
            running = [server for server in servers if server.process() is not None]
            try:
                side_by_side([server.start for server in servers])
                side_by_side([lambda: self._make_topic(ack_deadline_s), self._make_schema, self._make_dataset])
                self._make_token()
            except BaseException:
                for server in servers:
                    if server not in running:
                        server.stop()
                raise
        return self.environment()

    def down(self, *, purge: bool = False) -> list[str]:
        """Stop exactly what `up` started here; with `purge`, remove the state as well.

        Returns:
            The names of the servers that ran.
        """
        if not self.state.exists():
            return []
        with cache.locked(self.state / "lock"):
            ran = [name for name, runs in self.running().items() if runs]
            side_by_side([server.stop for server in self.servers().values()])
        if purge:
            self.postgres.purge()
            shutil.rmtree(self.state, ignore_errors=True)
        return ran

    def stop(self, names: Iterable[str]) -> None:
        """Stop some servers; their state stays."""
        servers = self.servers()
        side_by_side([servers[name].stop for name in names])

    def exists(self) -> bool:
        """`up` was called here."""
        return (self.state / "state.json").exists()

    def running(self) -> dict[str, bool]:
        """Which servers run."""
        return {name: server.process() is not None for name, server in self.servers().items()}

    def environment(self) -> dict[str, str]:
        """What leads programs to these servers.

        Raises:
            LocalError: they were never started.
        """
        if not (self.state / "postgres" / "made").exists():
            raise LocalError(f"There are no stand-ins in {self.state}: run `tidemark local up` first.")
        rest, write = self.bigquery.ports()
        found = {
            "PUBSUB_EMULATOR_HOST": f"127.0.0.1:{self.pubsub.port()}",
            "BIGQUERY_EMULATOR_HOST": f"http://127.0.0.1:{rest}",
            "GOOGLE_CLOUD_PROJECT": GCP_PROJECT,
            "TIDEMARK_TOPIC": TOPIC,
            "TIDEMARK_SUBSCRIPTION": SUBSCRIPTION,
            "TIDEMARK_DATABASE_URL": self.postgres.url(),
            "TIDEMARK_ROLLUP_DATASET": DATASET,
            "TIDEMARK_BIGQUERY_STORAGE_ENDPOINT": f"127.0.0.1:{write}",
        }
        if self._token.exists():
            found |= {"TIDEMARK_TOKENS": f"file:{self._tokens}", "TIDEMARK_TOKEN": self._token.read_text()}
        binary = prism.cached()
        if binary is not None:
            found["TIDEMARK_PRISM_LOCATION"] = str(binary)
        return found

    @property
    def _token(self) -> Path:
        return self.state / "token"

    @property
    def _tokens(self) -> Path:
        return self.state / "tokens"

    def _make_token(self) -> None:
        if self._token.exists():
            return
        token = new_token()
        for path, text in (
            (self._tokens, f"{line_of(token, PROJECT, list(RIGHTS))}\n"),
            (self._token, token),
        ):
            path.touch(mode=0o600)
            path.write_text(text)

    def _make_directory(self) -> None:
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            (self.state / "state.json").write_text(json.dumps({"pid": os.getpid()}))
        except OSError as error:
            raise LocalError(f"The state directory {self.state} cannot be written: {error.strerror}.") from None

    def _make_topic(self, ack_deadline_s: int) -> None:
        import grpc  # noqa: PLC0415  # these take a second to import
        from google.api_core.exceptions import AlreadyExists  # noqa: PLC0415
        from google.pubsub_v1 import PublisherClient, SubscriberClient  # noqa: PLC0415
        from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport  # noqa: PLC0415
        from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport  # noqa: PLC0415

        with grpc.insecure_channel(f"127.0.0.1:{self.pubsub.port()}") as channel:
            with contextlib.suppress(AlreadyExists):
                PublisherClient(transport=PublisherGrpcTransport(channel=channel)).create_topic(name=TOPIC)
            with contextlib.suppress(AlreadyExists):
                SubscriberClient(transport=SubscriberGrpcTransport(channel=channel)).create_subscription(
                    request={"name": SUBSCRIPTION, "topic": TOPIC, "ack_deadline_seconds": ack_deadline_s}
                )

    def _make_schema(self) -> None:
        from tidemark.store.migrate import migrate  # noqa: PLC0415  # alembic is slow to import

        migrate(self.postgres.url())

    def _make_dataset(self) -> None:
        from tidemark.warehouse.clients import rest  # noqa: PLC0415  # seconds to import
        from tidemark.warehouse.tables import ensure  # noqa: PLC0415

        ensure(rest(DATASET, f"http://127.0.0.1:{self.bigquery.ports()[0]}"), DATASET, "US")
