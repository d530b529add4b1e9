"""Which clients of MQTT this process knows: it tells them so, ends the connection that one takes over, and slows down a fight.

A client that is told that its session is not known throws away what was not acknowledged (MQTT 5, 4.1); here nothing is kept
of a session but that there was one, since a message that comes again does no harm.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tidemark.errors import UsageError
from tidemark.logs import log

MOST: Final = 100_000
"""Sessions that are known; with more of them the longest unused are forgotten."""
FOR_EVER_S: Final = (1 << 32) - 1
BURST: Final = 100
A_SECOND: Final = 10.0
"""Connections that one client may make: so many at once, and then so many a second."""
Key = tuple[str, str]
"""Project and client id."""


class Taken(Protocol):
    """The connection of a client."""

    def taken_over(self) -> None:
        """Another one is in its place now."""


@dataclass(slots=True)
class _Known:
    expiry_s: int
    seen: float


class Sessions:
    """Those of one process."""

    def __init__(self, file: Path | None, *, always: bool = False, clock: Callable[[], float] = time.time) -> None:
        """Read those of an earlier process.

        Args:
            file: Where they are kept; None: nowhere.
            always: Say of any session that it is known, where other processes may have it.
            clock: Seconds.

        Raises:
            UsageError: the file cannot be read or written.
        """
        self._always, self._clock = always, clock
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        self._connected: dict[Key, Taken] = {}
        self._allowed: OrderedDict[Key, tuple[float, float]] = OrderedDict()
        self._path, self._file, self._lines = file, -1, 0
        if file is not None:
            try:
                self._read(file)
                self._compact(file)
            except OSError as error:
                raise UsageError(f"--mqtt_sessions: {file} cannot be used: {error.strerror}.") from None

    def allows(self, key: Key) -> bool:
        """Whether the client may connect just now, and has not done so too often."""
        now = self._clock()
        left, at = self._allowed.pop(key, (float(BURST), now))
        left = min(float(BURST), left + max(0.0, now - at) * A_SECOND)
        self._allowed[key] = (left - 1 if left >= 1 else left, now)
        if len(self._allowed) > MOST:
            self._allowed.popitem(last=False)
        return left >= 1

    def begin(self, key: Key, connection: Taken, *, clean: bool, expiry_s: int) -> bool:
        """A client is connected, and an earlier connection of it is not any more; whether its session is known.

        Args:
            key: Of the client.
            connection: Its new one.
            clean: It wants a new session.
            expiry_s: How long its session lasts without a connection.
        """
        old = self._connected.pop(key, None)
        self._connected[key] = connection
        if old is not None:
            old.taken_over()
        now = self._clock()
        found = self._known.pop(key, None)
        present = not clean and (self._always or (found is not None and now - found.seen <= found.expiry_s))
        self._remember(key, expiry_s, now)
        if (found.expiry_s if found else 0) != expiry_s:
            self._write(key, expiry_s)
        return present

    def end(self, key: Key, connection: Taken, expiry_s: int) -> None:
        """The connection is over, and the session lasts for so long without one."""
        if self._connected.get(key) is connection:
            del self._connected[key]
            found = self._known.pop(key, None)
            self._remember(key, expiry_s, self._clock())
            if found is not None and found.expiry_s != expiry_s:
                self._write(key, expiry_s)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _remember(self, key: Key, expiry_s: int, now: float) -> None:
        if expiry_s:
            self._known[key] = _Known(expiry_s, now)
            if len(self._known) > MOST:
                self._known.popitem(last=False)

    def _write(self, key: Key, expiry_s: int) -> None:
        if self._path is None:
            return
        try:
            os.write(self._file, _line(key, expiry_s))
            self._lines += 1
            if self._lines > 2 * MOST:
                self._compact(self._path)
        except OSError as error:
            log.error(
                "%s cannot be written: after a restart clients may be told that their session is not known: %s.",
                self._path,
                error,
            )

    def _read(self, file: Path) -> None:
        now = self._clock()
        with contextlib.suppress(FileNotFoundError):
            for line in file.read_bytes().splitlines():
                try:
                    project, client_id, expiry_s = json.loads(line)
                    key, lasts = (str(project), str(client_id)), int(expiry_s)
                except (ValueError, TypeError):
                    log.warning("%s has a line that is none, as after a crash; it is left out.", file)
                    continue
                self._known.pop(key, None)
                self._remember(key, lasts, now)

    def _compact(self, file: Path) -> None:
        """Write what is known anew, without what is over, and go on behind it."""
        new = file.with_name(file.name + ".new")
        handle = os.open(new, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with open(handle, "wb", closefd=False) as whole:
                whole.writelines(_line(key, known.expiry_s) for key, known in self._known.items())
            new.replace(file)
        except OSError:
            os.close(handle)
            raise
        self.close()
        self._file, self._lines = handle, len(self._known)


def _line(key: Key, expiry_s: int) -> bytes:
    return (json.dumps([*key, expiry_s]) + "\n").encode()
