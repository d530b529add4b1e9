"""Datagrams of contract lines over UDP: the project is the port's, and the sender's address has to be of a network that may.

Nothing is answered. Each datagram that was sent to this machine is counted once: `datagrams` by what became of it, or
`datagrams_dropped`, which the kernel counts where it had no room.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Final

from tidemark.edge.budget import GROUP_BYTES
from tidemark.edge.contract import NOT_KEPT
from tidemark.edge.intake import Taken
from tidemark.edge.stream import Desk
from tidemark.edge.tokens import Grant
from tidemark.edge.verdict import Verdict
from tidemark.errors import TidemarkError
from tidemark.logs import log

RECEIVE_BYTES: Final = 8 << 20
"""Asked of the kernel for what has come and was not read."""
_LONGEST: Final = 65_535
_BATCH: Final = 256
_BATCH_BYTES: Final = 256 << 10
_SENDERS: Final = 10_000
_SO_MEMINFO: Final = 55
_DROPS: Final = struct.Struct("9I")
_SO_RCVBUFFORCE: Final = 33
Network = IPv4Network | IPv6Network


class UdpPort:
    """One port, and its project.

    Attributes:
        address: Where it listens.
    """

    def __init__(self, desk: Desk, address: str, port: int, project: str, networks: Sequence[Network]) -> None:
        """Listen; nothing is read before `start`.

        Args:
            desk: What it shares.
            address: Of this machine.
            port: 0: any that is free.
            project: Of all points that come.
            networks: Of senders.

        Raises:
            OSError: the address cannot be listened at.
        """
        self._desk, self._networks = desk, networks
        self._grant = Grant(project, frozenset({"write"}))
        family, kind, protocol, _, where = socket.getaddrinfo(
            address, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):  # the first is the administrator's only
                self._socket.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BYTES)
                break
        self._socket.bind(where)
        host, number = self._socket.getsockname()[:2]
        self.address = f"{host}:{number}"
        self._buffer = bytearray(_LONGEST)
        self._view = memoryview(self._buffer)
        self._senders: dict[str, bool] = {}
        self._waiting: deque[tuple[list[bytes], int]] = deque()
        self._reads = False
        self._dropped: int | None = 0
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Read what comes."""
        granted = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        if granted < RECEIVE_BYTES:
            log.warning(
                "The kernel holds %d bytes of datagrams, and %d were asked for: raise net.core.rmem_max.",
                granted // 2,
                RECEIVE_BYTES,
            )
        self._resume()

    def sweep(self) -> None:
        """Count what the kernel has dropped."""
        if self._dropped is None:
            return
        try:
            dropped = _DROPS.unpack(self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _DROPS.size))[8]
        except (OSError, struct.error) as error:
            log.warning("What the kernel drops of the datagrams to %s cannot be counted: %s.", self.address, error)
            self._dropped = None
            return
        if dropped != self._dropped:
            number = (dropped - self._dropped) % (1 << 32)
            self._desk.counters.count("datagrams_dropped", number, self._grant.project)
            self._dropped = dropped

    def stop(self) -> None:
        """Take what has come, and nothing more."""
        self._pause()
        with contextlib.suppress(OSError):
            self._socket.connect(self._itself())  # and so nobody else's datagrams come from now on
        while self._read():
            pass
        self.sweep()
        self._dropped = None
        self._socket.close()

    @property
    def at_work(self) -> bool:
        """What was read waits for room."""
        return bool(self._waiting)

    def close(self) -> None:
        """Count what there was no room for to the end."""
        for texts, _ in self._waiting:
            self._lost(len(texts), "there was no room for them to the end")
        self._waiting.clear()

    def _itself(self) -> Any:
        """The address by which the socket reaches itself."""
        host, *rest = self._socket.getsockname()
        if ip_address(host.partition("%")[0]).is_unspecified:
            host = "127.0.0.1" if self._socket.family == socket.AF_INET else "::1"
        return (host, *rest)

    def _resume(self) -> None:
        if not self._reads and self._socket.fileno() >= 0:
            self._reads = True
            self._loop.add_reader(self._socket.fileno(), self._read)

    def _pause(self) -> None:
        if self._reads:
            self._reads = False
            self._loop.remove_reader(self._socket.fileno())

    def _read(self) -> bool:
        """A batch; whether there was any."""
        texts: list[bytes] = []
        size = refused = 0
        receive, buffer, view, senders = self._socket.recvfrom_into, self._buffer, self._view, self._senders
        for _ in range(_BATCH):
            try:
                length, sender = receive(buffer)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                log.error("Datagrams to %s cannot be read: %s.", self.address, error)
                break
            allowed = senders.get(sender[0])
            if allowed is None:
                allowed = self._allowed(sender[0])
            if not allowed:
                refused += 1
                continue
            text = bytes(view[:length]).strip()
            texts.append(text)
            size += length
            if size > _BATCH_BYTES:
                break
        if refused:
            self._desk.counters.count("datagrams", refused, self._grant.project, "not_allowed")
        if texts:
            self._give(texts, size)
        return bool(texts or refused)

    def _give(self, texts: list[bytes], size: int) -> None:
        """Hand datagrams over, or read nothing more until there is room for them."""
        desk, project = self._desk, self._grant.project
        if not self._waiting and desk.budget.take(project, size):
            self._publish(texts, size)
            return
        if not self._waiting:
            self._pause()
            desk.budget.wait(self._again)
        self._waiting.append((texts, size))

    def _again(self) -> bool:
        """There may be room; whether there is not enough."""
        budget, waiting = self._desk.budget, self._waiting
        while waiting:
            texts, size = waiting[0]
            if not budget.take(self._grant.project, size):
                budget.wait(self._again)
                return True
            waiting.popleft()
            self._publish(texts, size)
        self._resume()
        return False

    def _publish(self, texts: list[bytes], size: int) -> None:
        at = 0
        try:
            found = self._desk.intake.take_each(texts, self._grant)
        except Exception:  # noqa: BLE001  # of whatever kind: the next ones are to be read all the same
            log.exception("Datagrams could not be taken.")
            self._desk.budget.give_back(self._grant.project, size)
            self._lost(len(texts), "they could not be taken")
            return
        for taken in found:
            last = at + taken.bodies == len(texts)
            held = size if last else size * taken.bodies // (len(texts) - at)
            size -= held
            at += taken.bodies
            if taken.kept is not None:
                self._desk.budget.add(self._grant.project, GROUP_BYTES)
                held += GROUP_BYTES
            self._follow(taken, held)

    def _follow(self, taken: Taken, held: int) -> None:
        done = partial(self._known, taken.bodies, taken.verdict, held, time.monotonic())
        if taken.kept is None:
            done(outcome=False)
        else:
            taken.kept.then(done)

    def _known(self, datagrams: int, verdict: Verdict, held: int, began: float, outcome: bool | TidemarkError) -> None:
        """What became of datagrams: each is counted once."""
        counters, project = self._desk.counters, self._grant.project
        self._desk.budget.give_back(project, held)
        refused = verdict.refused
        for reason, number in refused.items():
            counters.count("points_refused", number, project, reason)
        if isinstance(outcome, TidemarkError):
            counters.count("points_refused", verdict.accepted, project, NOT_KEPT)
            self._lost(datagrams, str(outcome))
            return
        if verdict.accepted:
            counters.count("points_accepted", verdict.accepted, project, "spool" if outcome else "bus")
            counters.kept(time.monotonic() - began)
        counters.count("datagrams", datagrams, project, "refused" if refused else "accepted")

    def _lost(self, datagrams: int, why: str) -> None:
        self._desk.counters.count("datagrams", datagrams, self._grant.project, NOT_KEPT)
        log.error("Datagrams of %s are lost: %s", self._grant.project, why)

    def _allowed(self, sender: str) -> bool:
        address = ip_address(sender.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        allowed = any((mapped or address) in network for network in self._networks)
        if len(self._senders) >= _SENDERS:
            self._senders.clear()
        self._senders[sender] = allowed
        return allowed
