"""How blocks and messages travel between stages where an engine does not fuse them.

A version comes first, so that a program can read what an older one left in an engine's state. Beam also asks coders for
the size of a sample of elements: these know it without encoding.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from apache_beam.coders import Coder, registry

from tidemark.wire.block import Block, DeadLetter, SeriesKey
from tidemark.wire.message import Message
from tidemark.wire.messages import Messages
from tidemark.wire.summary import POINT

VERSION: Final = 1


class _Travelling(msgspec.Struct, array_like=True, gc=False):
    keys: list[tuple[str, str, str]]
    points: bytes
    attributes: list[bytes | None] | None
    dead_letters: list[DeadLetter]


_BLOCK: Final = msgspec.msgpack.Decoder(_Travelling)
_MESSAGE: Final = msgspec.msgpack.Decoder(tuple[bytes, dict[str, str], int, str, int | None])
_MESSAGES: Final = msgspec.msgpack.Decoder(tuple[list[bytes], list[dict[str, str]], bytes, list[str], bytes])
_ENCODER: Final = msgspec.msgpack.Encoder()


def _payload(encoded: bytes) -> bytes:
    if encoded[0] != VERSION:
        raise ValueError(f"version {encoded[0]} of this encoding is not known; drain with the program that wrote it")
    return encoded[1:]


class BlockCoder(Coder):
    """Version, then MessagePack: series keys, the points as they lie in memory, attributes, dead letters."""

    def encode(self, value: Block) -> bytes:
        """Bytes of a block."""
        body = _Travelling(
            [(key.project, key.source, key.metric) for key in value.keys],
            value.points.tobytes(),
            value.attributes,
            value.dead_letters,
        )
        return bytes([VERSION]) + _ENCODER.encode(body)

    def decode(self, encoded: bytes) -> Block:
        """The block.

        Raises:
            ValueError: it was written by a program whose encoding this one does not know.
        """
        body = _BLOCK.decode(_payload(encoded))
        keys = [SeriesKey(*key) for key in body.keys]
        return Block(keys, np.frombuffer(body.points, POINT).copy(), body.attributes, body.dead_letters)

    def estimate_size(self, value: Block) -> int:
        """About as many bytes as `encode` would make."""
        return value.points.nbytes + 64 * len(value.keys) + 64 * len(value.attributes or ())

    def is_deterministic(self) -> bool:
        """Attributes of dead letters are dictionaries."""
        return False

    def to_type_hint(self) -> Any:
        """What it is for."""
        return Block


class MessageCoder(Coder):
    """Version, then MessagePack: data, attributes, publish time, id, stated event time."""

    def encode(self, value: Message) -> bytes:
        """Bytes of a message."""
        return bytes([VERSION]) + _ENCODER.encode(
            (value.data, dict(value.attributes), value.publish_time, value.message_id, value.stated)
        )

    def decode(self, encoded: bytes) -> Message:
        """The message.

        Raises:
            ValueError: as `BlockCoder.decode`.
        """
        return Message(*_MESSAGE.decode(_payload(encoded)))

    def estimate_size(self, value: Message) -> int:
        """About as many bytes as `encode` would make."""
        return len(value.data) + 64

    def is_deterministic(self) -> bool:
        """Attributes are a dictionary."""
        return False

    def to_type_hint(self) -> Any:
        """What it is for."""
        return Message


class MessagesCoder(Coder):
    """Version, then MessagePack: a list of each field, times as they lie in memory."""

    def encode(self, value: Messages) -> bytes:
        """Bytes of messages."""
        body = (
            value.data,
            [dict(some) for some in value.attributes],
            value.publish_time.tobytes(),
            value.message_ids,
            value.stated.tobytes(),
        )
        return bytes([VERSION]) + _ENCODER.encode(body)

    def decode(self, encoded: bytes) -> Messages:
        """The messages.

        Raises:
            ValueError: as `BlockCoder.decode`.
        """
        data, attributes, published, message_ids, said = _MESSAGES.decode(_payload(encoded))
        publish_time, stated = (np.frombuffer(times, np.int64) for times in (published, said))
        return Messages(data, attributes, publish_time, message_ids, stated)

    def estimate_size(self, value: Messages) -> int:
        """About as many bytes as `encode` would make."""
        return sum(map(len, value.data)) + 64 * len(value)

    def is_deterministic(self) -> bool:
        """Attributes are dictionaries."""
        return False

    def to_type_hint(self) -> Any:
        """What it is for."""
        return Messages


registry.register_coder(Block, BlockCoder)
registry.register_coder(Message, MessageCoder)
registry.register_coder(Messages, MessagesCoder)
