"""Appends rollup rows to BigQuery over the Storage Write API's default stream.

    rows ── serialize ──▶ what waits goes together ──▶ requests of ≤ 5,000 rows ──▶ an AppendRows stream ──▶ responses

A bundle of previews is a few rows and takes the service as long as thousands: while appends are under way, those of
other threads gather, and the next takes many of them. Settled rows never go with previews, which nobody is owed.

A row is durable when its response says so. A broken stream, a timeout or a service that is busy means that the
requests without a response are sent again: a row may then be there twice, which the view `rollups_latest` hides.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from google.rpc import code_pb2

from tidemark.errors import MisconfiguredError, TidemarkError, UnavailableError
from tidemark.retry import FIRST_WAIT_S, LONGEST_WAIT_S
from tidemark.warehouse.clients import write_channel
from tidemark.warehouse.rows import DESCRIPTOR, serialize
from tidemark.warehouse.stream import Failure, Request, Stream
from tidemark.warehouse.tables import TABLE
from tidemark.wire.summary import Rollups

ROWS_A_REQUEST: Final = 5_000
ROWS_TOGETHER: Final = 4 * ROWS_A_REQUEST
"""Of several threads in one append; more of them wait for the next."""
BYTES_A_REQUEST: Final = 8 << 20
"""The service takes 10 MB."""
STREAMS: Final = 2
"""Open at once from one process: the service wants few connections, each of them busy. Not one, so that a request
which the service is slow to answer does not hold everything."""
_TRANSIENT: Final = frozenset(
    {
        code_pb2.UNAVAILABLE,
        code_pb2.ABORTED,
        code_pb2.INTERNAL,
        code_pb2.DEADLINE_EXCEEDED,
        code_pb2.RESOURCE_EXHAUSTED,
        code_pb2.CANCELLED,
        code_pb2.UNKNOWN,
    }
)


class RefusedRow(NamedTuple):
    """A row that BigQuery will never take; `row` is its place in what was given to `append`."""

    row: int
    message: str


class _Rows:
    """What one `append` brought, and what became of it."""

    def __init__(self, serialized: list[bytes], *, settled: bool) -> None:
        self.serialized = serialized
        self.settled = settled
        self.taken = False
        self.refused: list[RefusedRow] = []
        self.error: BaseException | None = None
        self.done = threading.Event()


class RollupWriter:
    """Appends to one dataset's `rollups`; one for a process, safe between threads."""

    def __init__(self, dataset: str, endpoint: str | None, deadline_s: float = 20.0) -> None:
        """Nothing is connected before the first `append`.

        Args:
            dataset: gcp_project.dataset.
            endpoint: host:port of a stand-in in plain text; None: Google's.
            deadline_s: How long rows are tried once it is their turn.
        """
        project, _, name = dataset.rpartition(".")
        self._stream_name = f"projects/{project}/datasets/{name}/tables/{TABLE}/streams/_default"
        self._endpoint = endpoint
        self._deadline_s = deadline_s
        self._channel: Any = None
        self._idle: list[Stream] = []
        self._waiting: list[_Rows] = []
        self._lock = threading.Condition()
        self._sending = 0

    def append(
        self, rows: Rollups, names: Sequence[tuple[str, str, str]], panes: str | Sequence[str]
    ) -> list[RefusedRow]:
        """Append rows and return when all of them are durable, except those returned.

        Args:
            rows: Shape (n,), dtype `ROLLUP`.
            names: (project, source, metric) of each row.
            panes: early, on_time, late or settled; of all rows, or of each.

        Returns:
            The rows BigQuery refuses for what they contain; the others are written.

        Raises:
            UnavailableError: not all rows are known to be durable after the deadline; appending again is harmless.
            MisconfiguredError: the table, its schema or a grant is not as it must be.
        """
        brought = _Rows(serialize(rows, names, panes, time.time_ns() // 1000), settled=panes == "settled")
        with self._lock:
            self._waiting.append(brought)
        while True:
            with self._lock:
                self._lock.wait_for(lambda: brought.taken or self._sending < STREAMS)
                if brought.taken:
                    break
                together = self._take()
                self._sending += 1
            try:
                self._deliver(together)
            finally:
                with self._lock:
                    self._sending -= 1
                    self._lock.notify_all()
        brought.done.wait()
        if brought.error is not None:
            raise brought.error
        return brought.refused

    def _take(self) -> list[_Rows]:
        """Of what waits, what goes in the next append: the first, and what is like it, up to a bound."""
        together: list[_Rows] = []
        number = 0
        for some in self._waiting:
            if some.settled == self._waiting[0].settled and (
                not number or number + len(some.serialized) <= ROWS_TOGETHER
            ):
                together.append(some)
                number += len(some.serialized)
                some.taken = True
        self._waiting = [some for some in self._waiting if not some.taken]
        return together

    def _deliver(self, together: list[_Rows]) -> None:
        """Append the rows of several threads and tell each what became of its own."""
        serialized = [row for some in together for row in some.serialized]
        pending = list(_batches(serialized))
        refused: list[RefusedRow] = []
        failed: BaseException | None = None
        try:
            self._append(serialized, pending, refused)
        except BaseException as error:
            failed = error
            if not isinstance(error, TidemarkError):
                raise
        finally:
            open_rows = np.zeros(len(serialized), bool)
            open_rows[[row for batch in pending for row in batch]] = True
            start = 0
            for some in together:
                end = start + len(some.serialized)
                some.refused = [RefusedRow(one.row - start, one.message) for one in refused if start <= one.row < end]
                if failed is not None and open_rows[start:end].any():
                    some.error = failed
                some.done.set()
                start = end

    def _append(self, serialized: list[bytes], pending: list[list[int]], refused: list[RefusedRow]) -> None:
        """Append until nothing is left in `pending`, the batches whose rows are not known to be durable."""
        give_up_at = time.monotonic() + self._deadline_s
        wait = FIRST_WAIT_S
        while pending:
            try:
                self._send(pending, serialized, refused, give_up_at)
                continue
            except Failure as failure:
                if failure.code not in _TRANSIENT:
                    raise self._misconfigured(failure) from None
                pause = failure.retry_after_s or random.uniform(wait / 2, wait)  # noqa: S311  # jitter, not a secret
                if time.monotonic() + pause >= give_up_at:
                    raise self._unavailable(failure) from None
            time.sleep(pause)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def close(self) -> None:
        """Close every stream and the channel; a later `append` opens them again."""
        with self._lock:
            streams, self._idle = self._idle, []
            channel, self._channel = self._channel, None
        for stream in streams:
            stream.close()
        if channel is not None:
            channel.close()

    def _send(
        self, batches: list[list[int]], serialized: list[bytes], refused: list[RefusedRow], give_up_at: float
    ) -> None:
        """Send every batch on one stream before reading the responses.

        Acknowledged batches are taken out of `batches` as their responses come, and what is left of those with refused
        rows is put at their end, so that a failure leaves what is to be sent.
        """
        stream = None
        good = False
        try:
            stream = self._take_stream()
            with stream.until(give_up_at):
                for batch in batches:
                    stream.send(self._request([serialized[i] for i in batch]))
                for _ in range(len(batches)):
                    bad = stream.receive()
                    batch = batches.pop(0)
                    if bad:
                        refused.extend(RefusedRow(batch[i], message) for i, message in sorted(bad.items()))
                        if rest := [row for i, row in enumerate(batch) if i not in bad]:
                            batches.append(rest)
            good = True
        finally:
            if stream is not None and good:
                with self._lock:
                    self._idle.append(stream)
            elif stream is not None:
                stream.close()

    def _take_stream(self) -> Stream:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._channel is None:
                self._channel = write_channel(self._endpoint)
            return Stream(self._channel, self._stream_name)

    def _request(self, serialized: list[bytes]) -> Any:
        # Every request repeats stream and schema: they are needed on the first of a connection only, but a stand-in
        # wants them always, and beside thousands of rows they cost nothing.
        request = Request(write_stream=self._stream_name)
        request.proto_rows.writer_schema.proto_descriptor.CopyFrom(DESCRIPTOR)
        request.proto_rows.rows.serialized_rows.extend(serialized)
        return request

    def _unavailable(self, failure: Failure) -> TidemarkError:
        return UnavailableError(
            f"BigQuery did not take the rows within {self._deadline_s:g} s: {code_pb2.Code.Name(failure.code)}: {failure}.",
            retry_after_s=failure.retry_after_s,
        )

    def _misconfigured(self, failure: Failure) -> TidemarkError:
        return MisconfiguredError(
            f"BigQuery refuses to append to {self._stream_name}: {code_pb2.Code.Name(failure.code)}: {failure}."
        )


def _batches(serialized: list[bytes]) -> Iterator[list[int]]:
    """Indices of the rows of each request."""
    batch: list[int] = []
    size = 0
    for i, row in enumerate(serialized):
        if batch and (len(batch) == ROWS_A_REQUEST or size + len(row) > BYTES_A_REQUEST):
            yield batch
            batch, size = [], 0
        batch.append(i)
        size += len(row) + 8
    if batch:
        yield batch
