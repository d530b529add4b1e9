"""Publishes: many messages a call, each confirmed to whoever gave it, in one event loop.

Group commit. What comes while nothing is in flight goes out with the next turn of the loop; otherwise after
`LINGER_S`, or as soon as a request is full. What became of a call that failed is often unknown, so it is made again with
the same messages until `timeout_s` is over: a message may be published twice, and none is lost without being told.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc

from tidemark.bus.codes import TRANSIENT
from tidemark.bus.messages import topic as topic_field
from tidemark.errors import MisconfiguredError, RefusedError, TidemarkError, UnavailableError
from tidemark.logs import log
from tidemark.retry import FIRST_WAIT_S, jittered

LINGER_S: Final = 0.005
MESSAGES_A_CALL: Final = 1000
"""Pub/Sub's own bound."""
BYTES_A_CALL: Final = 8_000_000
"""Pub/Sub takes 10 MB."""
CALLS: Final = 8
"""In flight at most."""
LONGEST_CALL_S: Final = 10.0
LONGEST_WAIT_S: Final = 2.0
_PUBLISH: Final = "/google.pubsub.v1.Publisher/Publish"
_SCOPE: Final = "https://www.googleapis.com/auth/pubsub"
_HOST: Final = "pubsub.googleapis.com"
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),  # gRPC's own is two minutes: so long would it not see that the bus is back
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", -1),
)


class Item(Protocol):
    """What is to be published as one message."""

    size: int
    """About as many bytes as the message has; it may grow until it is closed."""

    def close(self) -> bytes:
        """The message as `tidemark.bus.messages` writes it; called once, when it goes out: nothing can be added then."""

    def done(self, error: TidemarkError | None) -> None:
        """Told once what became of it: confirmed, or an error.

        UnavailableError: nobody knows whether it was published, and it may be given again; MisconfiguredError: it was not,
        a person has to mend the topic or the grant; RefusedError: this message is not taken.
        """


def async_channel() -> Any:
    """A gRPC channel for the running event loop, as `tidemark.bus.channel.channel` makes one for threads.

    Raises:
        MisconfiguredError: this machine has no credentials.
    """
    emulator = os.environ.get("PUBSUB_EMULATOR_HOST")
    if emulator:
        return grpc.aio.insecure_channel(emulator, options=_OPTIONS)
    # only where Google is asked: its client would take most of a second to import, and nothing else of it is needed
    import google.auth  # noqa: PLC0415
    from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
    from google.auth.transport.grpc import AuthMetadataPlugin  # noqa: PLC0415
    from google.auth.transport.requests import Request  # noqa: PLC0415

    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
    except GoogleAuthError as error:
        raise MisconfiguredError(f"Pub/Sub cannot be reached without credentials: {error}.") from error
    plugin = grpc.metadata_call_credentials(AuthMetadataPlugin(credentials, Request()))
    both = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(), plugin)
    return grpc.aio.secure_channel(_HOST, both, options=_OPTIONS)


class Publisher:
    """Of one topic; one for a process, in its event loop."""

    def __init__(
        self,
        topic: str,
        channel: Any,
        *,
        timeout_s: float = 10.0,
        count: Callable[[str, int], None] = lambda _name, _number: None,
    ) -> None:
        """Nothing is sent before `put`.

        Args:
            topic: Full name.
            channel: Of `async_channel`.
            timeout_s: How long what could not be published is tried again.
            count: Told `published` and of how many messages, `publish_calls`, `publish_retries`.
        """
        self.topic = topic
        self._timeout_s = timeout_s
        self._count = count
        self._call = channel.unary_unary(_PUBLISH, None, None)
        self._head = topic_field(topic)
        self._loop = asyncio.get_running_loop()
        self._items: list[Item] = []
        self._bytes = 0
        self._flying = 0
        self._timer: asyncio.Handle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failing: tuple[float, TidemarkError] | None = None

    @property
    def trouble(self) -> TidemarkError | None:
        """Why nothing has been published since `timeout_s` or longer, or will be before a person helps; None: it is."""
        if self._failing is None:
            return None
        since, error = self._failing
        lasting = isinstance(error, MisconfiguredError) or self._loop.time() - since >= self._timeout_s
        return error if lasting else None

    def put(self, item: Item) -> None:
        """Publish it, soon; its `done` is told."""
        self._items.append(item)
        self._idle.clear()
        self.grew(item.size)

    def grew(self, size: int) -> None:
        """Something was added to what waits."""
        self._bytes += size
        if self._flying >= CALLS:
            return
        if len(self._items) >= MESSAGES_A_CALL or self._bytes >= BYTES_A_CALL:
            self._send()
        elif self._timer is None:
            self._timer = (
                self._loop.call_later(LINGER_S, self._tick) if self._flying else self._loop.call_soon(self._tick)
            )

    async def probe(self) -> None:
        """Ask whether the bus is back, by a call without messages: it refuses that, and so it answers."""
        try:
            await self._call(self._head, timeout=LONGEST_WAIT_S)
        except grpc.aio.AioRpcError as failed:
            error = _translate(failed, self.topic)
            if not isinstance(error, RefusedError):
                self._failing = (self._failing[0] if self._failing else self._loop.time(), error)
                return
        self._failing = None

    async def drained(self) -> None:
        """Wait until everything is confirmed, or has failed."""
        await self._idle.wait()

    def _tick(self) -> None:
        self._timer = None
        while self._items and self._flying < CALLS:
            self._send()

    def _send(self) -> None:
        """One call's worth of what waits, in the order it came."""
        number = size = 0
        for item in self._items[:MESSAGES_A_CALL]:
            if number and size + item.size > BYTES_A_CALL:
                break
            number += 1
            size += item.size
        batch, self._items = self._items[:number], self._items[number:]
        self._bytes -= size
        self._flying += 1
        closed = [(item, item.close()) for item in batch]
        task = self._loop.create_task(self._publish(closed))
        self._tasks.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._flying -= 1
        if self._items:
            if self._timer is None:
                self._timer = self._loop.call_soon(self._tick)
        elif not self._flying:
            self._idle.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("Publishing ended by an error that was not foreseen.", exc_info=task.exception())

    async def _publish(self, batch: list[tuple[Item, bytes]]) -> None:
        try:
            error = await self._until_known(batch)
        except BaseException:
            _tell(batch, UnavailableError("Publishing was broken off."))
            raise
        if isinstance(error, RefusedError) and len(batch) > 1:
            half = len(batch) // 2  # one of them may be wrong, and the others have to get through
            await self._publish(batch[:half])
            await self._publish(batch[half:])
        else:
            _tell(batch, error)

    async def _until_known(self, batch: list[tuple[Item, bytes]]) -> TidemarkError | None:
        request = self._head + b"".join([message for _, message in batch])
        until = self._loop.time() + self._timeout_s
        wait = FIRST_WAIT_S
        while True:
            self._count("publish_calls", 1)
            try:
                left = until - self._loop.time()
                await self._call(request, timeout=max(min(LONGEST_CALL_S, left), 0.05))
            except grpc.aio.AioRpcError as failed:
                code = failed.code()
                error = _translate(failed, self.topic)
                if isinstance(error, RefusedError):
                    return error
                self._failing = (self._failing[0] if self._failing else self._loop.time(), error)
                if code not in TRANSIENT:
                    return error
                pause = jittered(wait)
                if self._loop.time() + pause >= until:
                    log.warning("%s", error)
                    return error
                self._count("publish_retries", 1)
                await asyncio.sleep(pause)
                wait = min(2 * wait, LONGEST_WAIT_S)
            else:
                self._failing = None
                self._count("published", len(batch))
                return None


def _tell(batch: list[tuple[Item, bytes]], error: TidemarkError | None) -> None:
    for item, _ in batch:
        item.done(error)


def _translate(error: grpc.aio.AioRpcError, topic: str) -> TidemarkError:
    code, details = error.code(), error.details()
    if code in TRANSIENT:
        return UnavailableError(f"Pub/Sub does not take messages for {topic} just now: {code.name}: {details}.")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return RefusedError(f"Pub/Sub refuses a message: {details}.", code=code.name)
    if code is grpc.StatusCode.NOT_FOUND:
        return MisconfiguredError(f"The topic {topic} does not exist: create it, or correct --topic.")
    return MisconfiguredError(f"Pub/Sub refuses {topic}: {code.name}: {details}.")
