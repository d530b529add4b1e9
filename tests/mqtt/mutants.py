"""Packets that are broken at random, and what becomes of bytes that come whole or in pieces."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mqtt.clients import AFTER_CONNECT, CONNECT, of_paho
from tidemark.mqtt.fields import MqttError, varint
from tidemark.mqtt.packets import Connect, Packet, read

LONGEST: Final = 1 << 28
_SPLICES: Final = (
    b"\0",
    b"\0\0",
    b"\0\1",
    b"\xff",
    b"\xff\xff",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\xef\xbb\xbf",
    b"#",
    b"+",
    b"\x80\0",
    b"\x80\x80\x80\x80\1",
    b"\xff\xff\xff\x7f",
    b"\x21\0\0",
    b"\x23\0\1",
    b"\x23\0\0",
    b"\x26\0\1a\0\1b",
    b"\x0b\1",
    b"\x1c\0\1s",
    b"\x1f\0\1r",
    b"\3\x01\1",
)


def corpus(number: int) -> tuple[list[bytes], list[bytes]]:
    """Good packets of 3.1.1 and of version 5, always the same."""
    found: tuple[list[bytes], list[bytes]] = [], []

    @settings(max_examples=number, database=None, derandomize=True)
    @given(of_paho(), st.builds(lambda packet: packet.write(), CONNECT | AFTER_CONNECT))
    def collect(of_4: tuple[bytes, Packet], of_5: bytes) -> None:
        found[0].append(of_4[0])
        found[1].append(of_5)

    collect()
    return found


def mutant(chance: random.Random, good: Sequence[bytes]) -> bytes:
    """A packet with something wrong, mostly in a body that is as long as its head says."""
    first, body = _split(chance.choice(good))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        body = _changed(chance, body, good)
    if chance.random() < 0.15:
        first ^= 1 << chance.randrange(8)
    whole = bytes((first,)) + _length(chance, len(body)) + body
    kind = chance.random()
    if kind < 0.05:
        return whole[: chance.randrange(len(whole) + 1)]
    return whole + chance.choice(good) if kind < 0.1 else whole


def _split(packet: bytes) -> tuple[int, bytes]:
    at = 1
    while packet[at] > 127:
        at += 1
    return packet[0], packet[at + 1 :]


def _changed(chance: random.Random, body: bytes, good: Sequence[bytes]) -> bytes:
    at, end = sorted((chance.randrange(len(body) + 1), chance.randrange(len(body) + 1)))
    byte, other = body[at : at + 1], chance.choice(good)
    piece, after = chance.choice(
        (
            (b"", len(body)),
            (b"", end),
            (chance.choice(_SPLICES), at + chance.randrange(3)),
            (bytes((chance.randrange(256),)), at + chance.randrange(2)),
            (body[at:end] * 2, end),
            (other[chance.randrange(len(other)) :], len(body)),
            (bytes(one ^ 1 << chance.randrange(8) for one in byte), at + 1),
            (bytes((one + chance.choice((-1, 1))) % 256 for one in byte), at + 1),
        )
    )
    return body[:at] + piece + body[after:]


def _length(chance: random.Random, right: int) -> bytes:
    if chance.random() < 0.85:
        return varint(right)
    return chance.choice(
        (
            varint(max(0, right + chance.choice((-2, -1, 1, 2)))),
            varint(chance.randrange(LONGEST)),
            bytes((right & 127 | 128, right >> 7 & 127 | 128, 0)),
            bytes((right & 127 | 128, right >> 7 & 127 | 128, right >> 14 & 127 | 128, 0)),
            b"\xff\xff\xff\xff\x7f",
            b"\x80\x80\x80\x80",
        )
    )


def outcome(data: bytes, version: int, longest: int = LONGEST, cuts: Sequence[int] = ()) -> list[object]:
    """The packets that are read, and at last the error, if there is one, when the bytes come in pieces.

    Args:
        data: All of them.
        version: Of the connection; 0: none is told yet.
        longest: Most bytes of a packet.
        cuts: Where pieces end.
    """
    found: list[object] = []
    at = 0
    try:
        for cut in (*sorted(cuts), len(data)):
            while (one := read(data[:cut], at, version, longest)) is not None:
                packet, end = one
                assert at < end <= cut
                found.append(packet)
                at = end
                if isinstance(packet, Connect):
                    version = packet.version
    except MqttError as error:
        found.append((error.code, str(error)))
    return found
