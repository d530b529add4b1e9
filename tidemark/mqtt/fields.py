"""The fields that packets are made of, and the one error that reading them ends in."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

_CONTINUES: Final = 0x80
_LONGEST_VARINT: Final = 4


class Code(IntEnum):
    """Reason codes of MQTT 5 (its section 2.4), those that are used here."""

    SUCCESS = 0x00
    UNSPECIFIED = 0x80
    MALFORMED = 0x81
    PROTOCOL_ERROR = 0x82
    UNSUPPORTED_VERSION = 0x84
    CLIENT_ID = 0x85
    BAD_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    UNAVAILABLE = 0x88
    BUSY = 0x89
    SHUTTING_DOWN = 0x8B
    BAD_METHOD = 0x8C
    KEEP_ALIVE = 0x8D
    TAKEN_OVER = 0x8E
    TOPIC_NAME = 0x90
    RECEIVE_MAXIMUM = 0x93
    TOPIC_ALIAS = 0x94
    TOO_LARGE = 0x95
    QUOTA = 0x97
    PAYLOAD = 0x99
    RETAIN = 0x9A
    CONNECTION_RATE = 0x9F


class MqttError(Exception):
    """A packet that ends its connection: `code` says why in MQTT 5's terms."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code


def malformed(why: str) -> MqttError:
    """The packet is none."""
    return MqttError(Code.MALFORMED, why)


def utf8(text: bytes) -> str:
    """A string of MQTT.

    Raises:
        MqttError: it is no UTF-8, or has a NUL, which MQTT forbids in one.
    """
    try:
        found = text.decode()
    except UnicodeDecodeError:
        raise malformed("a string is no UTF-8") from None
    if "\0" in found:
        raise malformed("a string has a NUL")
    return found


class Fields:
    """Those of one packet, read one after the other."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self._data, self._at, self._end = data, at, end

    @property
    def left(self) -> int:
        """Bytes that were not read."""
        return self._end - self._at

    def take(self, length: int) -> bytes:
        """So many bytes.

        Raises:
            MqttError: there are fewer.
        """
        at, self._at = self._at, self._at + length
        if self._at > self._end:
            raise malformed("a packet is shorter than what it holds")
        return self._data[at : self._at]

    def byte(self) -> int:
        """An integer of one byte."""
        return self.take(1)[0]

    def two(self) -> int:
        """An integer of two bytes."""
        return int.from_bytes(self.take(2), "big")

    def four(self) -> int:
        """An integer of four bytes."""
        return int.from_bytes(self.take(4), "big")

    def binary(self) -> bytes:
        """Bytes with their length before them."""
        return self.take(self.two())

    def text(self) -> str:
        """A string with its length before it."""
        return utf8(self.binary())

    def varint(self) -> int:
        """An integer of one to four bytes, in as few as it needs."""
        found = 0
        for place in range(_LONGEST_VARINT):
            byte = self.byte()
            found |= (byte & 0x7F) << 7 * place
            if byte < _CONTINUES:
                if place and not byte:
                    raise malformed("an integer is longer than it needs to be")
                return found
        raise malformed("an integer of variable length never ends")

    def nested(self, length: int) -> Fields:
        """The next so many bytes, to be read by themselves."""
        at = self._at
        self.take(length)
        return Fields(self._data, at, at + length)

    def end(self) -> None:
        """Nothing may be left.

        Raises:
            MqttError: something is.
        """
        if self.left:
            raise malformed("a packet is longer than what it holds")


def varint(number: int) -> bytes:
    """As `Fields.varint` reads it."""
    found = bytearray()
    while number >= _CONTINUES:
        found.append(number & 0x7F | _CONTINUES)
        number >>= 7
    found.append(number)
    return bytes(found)


def text(string: str) -> bytes:
    """As `Fields.text` reads it; cut where it is longer than a string may be, and what may not be in one is a `?`."""
    found = string.replace("\0", "?").encode("utf-8", "replace")[:65_535].decode("utf-8", "ignore").encode()
    return len(found).to_bytes(2, "big") + found
