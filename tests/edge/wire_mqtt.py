"""Packets of MQTT as bytes, right or wrong, and a client that sends any bytes and reads what comes back."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.edge.conftest import point
from tests.edge.house import House

V4, V5 = 4, 5
CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = 8, 9, 10, 11, 12, 13, 14, 15
TOPIC = "tidemark/cams"


class Answer(NamedTuple):
    """A packet of the server's: its type and what follows its length."""

    kind: int
    body: bytes

    @property
    def number(self) -> int:
        return int.from_bytes(self.body[:2], "big")

    @property
    def code(self) -> int:
        """Of a CONNACK, of an acknowledgement, or of a DISCONNECT; 0 where it is left out."""
        least = {CONNACK: 1, DISCONNECT: 0}.get(self.kind, 2)
        at = -1 if self.kind in (SUBACK, UNSUBACK) else least
        return self.body[at] if len(self.body) > least else 0


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes((*found, number))


def packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + varint(len(body)) + body


def field(data: bytes | str) -> bytes:
    found = data.encode() if isinstance(data, str) else data
    return len(found).to_bytes(2, "big") + found


def connect(
    version: int,
    token: str | None,
    client_id: str = "",
    user: str | None = "cams",
    *,
    clean: bool = True,
    keep_alive_s: int = 60,
    properties: bytes = b"",
    will: bytes = b"",
) -> bytes:
    """CONNECT; `will` is its topic and payload as fields, behind its properties in version 5."""
    flags = 2 * clean | bool(will) << 2 | (token is not None) << 6 | (user is not None) << 7
    body = b"\0\4MQTT" + bytes((version, flags)) + keep_alive_s.to_bytes(2, "big")
    body += varint(len(properties)) + properties if version == V5 else b""
    body += field(client_id) + will
    body += b"".join(field(text) for text in (user, token) if text is not None)
    return packet(0x10, body)


def publish(
    version: int,
    payload: bytes,
    number: int = 0,
    topic: str | bytes = TOPIC,
    *,
    qos: int | None = None,
    again: bool = False,
    retain: bool = False,
    properties: bytes = b"",
) -> bytes:
    """PUBLISH, of QoS 1 where it has a number."""
    qos = (1 if number else 0) if qos is None else qos
    body = field(topic) + (number.to_bytes(2, "big") if qos else b"")
    body += varint(len(properties)) + properties if version == V5 else b""
    return packet(0x30 | again << 3 | qos << 1 | retain, body + payload)


def alias(number: int) -> bytes:
    return b"\x23" + number.to_bytes(2, "big")


def text(value: float = 1, **more: object) -> bytes:
    """A body with one point."""
    return json.dumps(point(value=value, **more)).encode()


class Client:
    """One connection."""

    def __init__(self, house: House, small: bool = False) -> None:
        self.socket = socket.socket()
        if small:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", house.running.device_ports["mqtt"][0]))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(20)
        self._data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def read(self) -> Answer | None:
        """The next packet; None: the connection is over."""
        while (found := self._next()) is None:
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                assert not self._data, self._data
                return None
            self._data += data
        return found

    def told(self) -> tuple[int, int]:
        """Type and code of the next packet, which there is."""
        found = self.read()
        assert found is not None
        return found.kind, found.code

    def rest(self) -> list[Answer]:
        """All packets until the connection is over."""
        return list(iter(self.read, None))

    def acks(self, number: int) -> list[int]:
        """So many PUBACKs of messages that are kept: their numbers."""
        found = [self.read() for _ in range(number)]
        assert all(one is not None and one.kind == PUBACK and not one.code for one in found), found
        return [one.number for one in found if one is not None]

    def _next(self) -> Answer | None:
        data, length = self._data, 0
        for place in range(1, min(5, len(data))):
            length |= (data[place] & 127) << 7 * (place - 1)
            if data[place] < 128:
                end = place + 1 + length
                if len(data) < end:
                    return None
                self._data = data[end:]
                return Answer(data[0] >> 4, data[place + 1 : end])
        return None


def connected(
    house: House,
    version: int = V5,
    client_id: str = "",
    *,
    user: str = "cams",
    given: str = "",
    small: bool = False,
    **more: Any,
) -> Client:
    """A client that is let in, by a token that it was given or by the house's own."""
    made = Client(house, small)
    made.send(connect(version, given or house.token, client_id, user, **more))
    assert made.told() == (CONNACK, 0)
    return made


def codes(answers: list[Answer]) -> list[tuple[int, int]]:
    return [(one.kind, one.code) for one in answers]


def exchange(house: House, *parts: bytes) -> list[Answer]:
    """All that is answered until the connection ends; what cannot be sent any more is not."""
    with Client(house) as client:
        with contextlib.suppress(ConnectionError):
            client.send(*parts)
        return client.rest()


def good(house: House, client: Client | None = None, topic: str = "tidemark/cams/gateway-7/fps") -> float:
    """A good message is acknowledged; how long it took, connecting not counted."""
    with contextlib.ExitStack() as ends:
        sender = client or ends.enter_context(connected(house))
        began = time.monotonic()
        sender.send(publish(V5, b"24.5", 7, topic))
        assert sender.acks(1) == [7]
        return time.monotonic() - began
