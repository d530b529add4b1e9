"""Bytes that are almost packets: only one error leaves the reader, and it refuses what the standard does not allow."""

from __future__ import annotations

import contextlib
import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import mqtt5
import pytest

from tests.mqtt.clients import completed, meant
from tests.mqtt.mutants import LONGEST, corpus, mutant, outcome
from tidemark.mqtt.fields import MqttError
from tidemark.mqtt.packets import V4, V5, read

MUTANTS: Final = pytest.mark.parametrize("mutants", [50_000, pytest.param(1_000_000, marks=pytest.mark.long)])
_NUMBER: Final = re.compile(r"0x[0-9a-f]{2}|\d+")
_SHORT: Final = "a packet is shorter than what it holds"
_CONNECT: Final = b"\x10\x0d\0\4MQTT\5\2\0\0\0\0\0"

DIFFERENCES: Final = {
    # what is read here, and by mqtt5 not
    ("read", "Invalid protocol version"): b"\x10\x0c\0\4MQTT\4\2\0\0\0\0",  # 3.1.1
    ("read", "Invalid PubRelReasonCode value: N"): b"\x62\3\0\1\1",  # 3.6.2.1 binds its sender; no answer depends on it
    (
        "read",
        "Invalid DisconnectReasonCode value: N",
    ): b"\xe0\1\1",  # so does 3.14.2.1; it is the last packet either way
    ("read", "Topic alias must be != N"): b"\x30\6\0\0\3\x23\0\0",  # 3.3.2.3.4: the connection refuses it, with 0x94
    ("incomplete", "Invalid variable byte integer"): b"\x10\x81\0",  # known once it is known to be 5
    # what mqtt5 reads, and is refused here
    ("a packet of N bytes is too long", "incomplete"): b"\x10\x80\x80\1",  # CONNECT_BYTES
    ("a client sends no packet of type N", "read"): b"\xd0\0",  # it is PINGRESP: a server's
    ("the flags of CONNECT are contradictory", "read"): _CONNECT[:9] + b"\1" + _CONNECT[10:],  # MQTT-3.1.2-3, -13, -15
    ("a will has no topic", "read"): b"\x10\x12\0\4MQTT\5\6\0\0\0\0\0\0\0\0\0\0",  # MQTT-4.7.3-1
    ("there are authentication data and no method", "read"): b"\x10\x10\0\4MQTT\5\2\0\0\3\x16\0\0\0\0",  # 3.1.2.11.10
    ("a message's topic has no wildcards", "read"): b"\x30\4\0\1#\0",  # MQTT-3.3.2-2
    ("a message of QoS N is never sent again", "read"): b"\x38\4\0\1t\0",  # MQTT-3.3.1-2
    ("there is no packet N, and no QoS N", "read"): b"\x32\6\0\1t\0\0\0",  # MQTT-2.2.1-3
    ("there is no packet N", "read"): b"\x62\2\0\0",  # the same
    ("a subscription is to nothing", "read"): b"\x82\3\0\1\0",  # MQTT-3.8.3-2, MQTT-3.10.3-2
    ("a filter is empty", "read"): b"\x82\6\0\1\0\0\0\0",  # MQTT-4.7.3-1
    ("the options of a subscription are none", "read"): b"\x82\7\0\1\0\0\1t\x40",  # MQTT-3.8.3-5
    ("a string has a NUL", "read"): b"\x30\4\0\1\0\0",  # MQTT-1.5.4-2
    (_SHORT, "read"): b"\x30\6\0\1t\1\1\1",  # 2.2.2.1: a property that ends behind all of them
    ("the property N cannot be N", "read"): b"\x30\6\0\1t\2\1\2",  # 3.3.2.3.2: one of two values
    ("the property N has no place there", "read"): b"\x30\6\0\1t\2\x0b\1",  # MQTT-3.3.4-6: a server's
    ("there is no property N that a client sends", "read"): b"\xe0\5\0\3\x1c\0\0",  # 3.14.2.2.5: a server's
}
"""How this reader and mqtt5's differ, each with a packet and the place in MQTT 5.0 that says why."""


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A string that is no UTF-8 makes mqtt5 panic, of which it tells whoever listens."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stderr(nothing):
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def difference(data: bytes) -> tuple[str, str] | None:
    """What each of the two readers says of a packet, where that is not the same."""
    theirs = None
    try:
        theirs = meant(mqtt5.read(data)[0])
        they_say = "read"
    except IndexError:
        they_say = "incomplete"
    except BaseException as error:  # a panic is no Exception
        if type(error).__name__ not in ("ValueError", "PanicException"):
            raise
        they_say = _kind(str(error))
    try:
        found = read(data, 0, 0 if data[:1] and data[0] >> 4 == 1 else V5, LONGEST)
    except MqttError as error:
        return (_kind(str(error)), they_say) if they_say in ("read", "incomplete") else None
    if found is None:
        return None if they_say == "incomplete" else ("incomplete", they_say)
    if they_say == "read":
        return None if completed(found[0]) == theirs else ("read", "read otherwise")
    return "read", they_say


def _kind(said: str) -> str:
    return _NUMBER.sub("N", said)


@MUTANTS
def test_only_one_error_leaves_and_where_bytes_are_cut_makes_no_difference(mutants: int) -> None:
    chance = random.Random(0)
    good = corpus(300)
    errors = 0
    for _ in range(mutants):
        version = chance.choice((0, V4, V5))
        data = b"".join(mutant(chance, chance.choice(good)) for _ in range(chance.choice((1, 1, 1, 2))))
        longest = chance.choice((LONGEST, LONGEST, 40))
        whole = outcome(data, version, longest)
        cuts = [chance.randrange(len(data) + 1) for _ in range(2)]
        assert outcome(data, version, longest, cuts) == whole, (data, version, longest, cuts)
        errors += bool(whole) and isinstance(whole[-1], tuple) and len(whole[-1]) == 2
    assert mutants / 10 < errors < mutants


@MUTANTS
@pytest.mark.usefixtures("quiet")
def test_what_is_read_is_what_another_reader_reads_but_for_known_differences(mutants: int) -> None:
    chance = random.Random(1)
    _, good = corpus(300)
    for _ in range(mutants):
        data = mutant(chance, good)
        found = difference(data)
        assert found is None or found in DIFFERENCES, (found, data)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("known", "data"), DIFFERENCES.items(), ids=repr)
def test_the_differences_are_known(known: tuple[str, str], data: bytes) -> None:
    assert difference(data) == known
