"""The listeners for devices: MQTT, lines over TCP, datagrams; each is there where it has a port."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Final

from tidemark.edge.mqtt import Broker, MqttConnection
from tidemark.edge.sessions import Sessions
from tidemark.edge.stream import Desk, Stream
from tidemark.edge.tcp import TcpConnection
from tidemark.edge.udp import Network, UdpPort
from tidemark.errors import UsageError
from tidemark.net.listen import address_of, listen
from tidemark.settings import Values
from tidemark.wire.limits import Limits
from tidemark.wire.reasons import RejectedError

_HIGHEST_PORT: Final = 65_535
_UNREAD_BYTES: Final = 64 << 10
"""Of answers that the kernel keeps for a connection: they are short, and with its own bound a client that reads none would not
be seen before it has cost some MB."""


class Devices:
    """All of them."""

    def __init__(self, values: Values, desk: Desk) -> None:
        """Nothing listens yet.

        Args:
            values: Settings of the edge.
            desk: What all connections share.

        Raises:
            UsageError: a setting cannot be.
        """
        if values.max_packet_bytes > values.inflight_bytes // 2:
            raise UsageError("--max_packet_bytes may be half of --inflight_bytes at most.")
        if values.tls_client_projects and not values.tls_client_ca:
            raise UsageError("--tls_client_projects needs --tls_client_ca: who signs the certificates?")
        self._values, self._desk = values, desk
        self._networks = networks(values.udp_networks)
        self._projects = udp_projects(values.udp_ports or "", Limits.of(values))
        sessions = Path(values.mqtt_sessions) if values.mqtt_sessions else None
        self._sessions = Sessions(sessions, always=values.mqtt_session_present == "always")
        self._broker = Broker(desk, self._sessions)
        self._servers: list[asyncio.Server] = []
        self._udp: list[UdpPort] = []

    async def listen(self, tls: ssl.SSLContext | None, backlog: int) -> dict[str, list[str]]:
        """Begin; the addresses by what is spoken there.

        Raises:
            UsageError: an address cannot be listened at.
        """
        values, found = self._values, {}
        for name, port, made in (
            ("mqtt", values.mqtt_port, lambda: MqttConnection(self._broker)),
            ("tcp", values.tcp_port, lambda: TcpConnection(self._desk)),
        ):
            if port is not None:
                server = await listen(
                    made, f"--{name}_port", values.device_address, port, tls, self._desk.slow_s, backlog
                )
                for listening in server.sockets:  # the connections have it from there
                    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD_BYTES)
                    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                self._servers.append(server)
                found[name] = [address_of(server)]
        for port, project in self._projects:
            try:
                self._udp.append(UdpPort(self._desk, values.device_address, port, project, self._networks))
            except OSError as error:
                raise UsageError(f"--udp_ports: {values.device_address}:{port}: {error.strerror}.") from None
        for udp in self._udp:
            udp.start()
            found.setdefault("udp", []).append(udp.address)
        return found

    def stop_listening(self) -> None:
        """Take no new connections, and what has come of datagrams but no more."""
        for server in self._servers:
            server.close()
        for udp in self._udp:
            udp.stop()

    @property
    def at_work(self) -> bool:
        """Datagrams were read, and there was no room for them yet."""
        return any(udp.at_work for udp in self._udp)

    def sweep(self) -> None:
        """Once a second."""
        for udp in self._udp:
            udp.sweep()

    def look_again(self) -> None:
        """The tokens have changed."""
        for peer in list(self._desk.peers.all):
            if isinstance(peer, Stream):
                peer.look_again()

    def close(self) -> None:
        """Nothing is connected any more."""
        for udp in self._udp:
            udp.close()
        self._sessions.close()


def networks(text: str) -> list[Network]:
    """Those of `--udp_networks`.

    Raises:
        UsageError: one of them is none.
    """
    found = []
    for one in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(one))
        except ValueError as error:
            raise UsageError(f"--udp_networks: {error}.") from None
    return found


def udp_projects(text: str, limits: Limits) -> list[tuple[int, str]]:
    """Ports and projects of `--udp_ports`.

    Raises:
        UsageError: one of them is none.
    """
    found = []
    for one in filter(None, text.split(",")):
        port, _, project = one.partition("=")
        if int(port) > _HIGHEST_PORT:
            raise UsageError(f"--udp_ports: {port} is no port.")
        try:
            limits.check_name("project", project)
        except RejectedError as error:
            raise UsageError(f"--udp_ports: {error.detail}.") from None
        found.append((int(port), project))
    return found
