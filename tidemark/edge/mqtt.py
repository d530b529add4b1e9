"""MQTT 3.1.1 and 5: takes messages, and acknowledges each of QoS 1 and 2 when its points are kept.

Nothing is stored of a session: a message that comes again writes the same point. So QoS 2 is QoS 1 with two packets more. What
is refused for ever is acknowledged with the reason in version 5, and in 3.1.1, which has no refusal, acknowledged and counted;
a message that is not kept is never acknowledged, and ends the connection: its sender has it still.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tidemark.edge.contract import BAD_TOPIC, FORBIDDEN, SERIES_LIMIT
from tidemark.edge.sessions import FOR_EVER_S, Key, Sessions
from tidemark.edge.stream import Desk, Group, Stream
from tidemark.edge.tokens import Grant, digest
from tidemark.edge.topics import RefusedMessageError, Route, body, route
from tidemark.errors import TidemarkError
from tidemark.mqtt import answers
from tidemark.mqtt.fields import Code, MqttError
from tidemark.mqtt.packets import (
    V5,
    Connect,
    Disconnect,
    Packet,
    Ping,
    Publish,
    Release,
    Subscribe,
    UnsupportedError,
    length,
    read,
)
from tidemark.mqtt.properties import Property
from tidemark.net.tls import common_name

RECEIVE_MAXIMUM: Final = 100
"""Messages of a connection that are not acknowledged."""
ALIASES: Final = 16
LONGEST_KEEP_ALIVE_S: Final = 600
CLIENT_ID_BYTES: Final = 256
_BATCH_BYTES: Final = 256 << 10
_ROUTES: Final = 10_000
_ROUTE_LENGTH: Final = 256
_OTHERS: Final = 100
"""Packets that are no messages, of one client, before others have their turn."""
_PATIENCE: Final = 1.5
_MESSAGE_BYTES: Final = 256
"""Beside its text, of a message that is not acknowledged."""
_REASON_BYTES: Final = 200
_CODES: Final = {FORBIDDEN: Code.NOT_AUTHORIZED, BAD_TOPIC: Code.TOPIC_NAME, SERIES_LIMIT: Code.QUOTA}


@dataclass
class Broker:
    """What the connections of MQTT share.

    Attributes:
        desk: With those of other listeners.
        sessions: Of clients.
        routes: What topics say, and to whom.
    """

    desk: Desk
    sessions: Sessions
    routes: dict[tuple[str, str, str | None], Route] = field(default_factory=dict)

    @property
    def longest_topic(self) -> int:
        """Characters of one that can mean something, and a few more."""
        limits = self.desk.intake.limits
        return 2 * limits.max_name_bytes + limits.max_metric_bytes + 16

    def whole(self, topic: str) -> str:
        """A topic for a mapping, which gives it whatever meaning it likes.

        Raises:
            RefusedMessageError: it is too long, or was cut for that.
        """
        if len(topic) >= self.longest_topic:
            raise RefusedMessageError(BAD_TOPIC, f"a topic may have {self.longest_topic - 1} characters")
        return topic

    def route(self, topic: str, grant: Grant) -> Route:
        """As `tidemark.edge.topics.route`."""
        key = topic, grant.project, grant.source
        found = self.routes.get(key)
        if found is None:
            found = route(topic, grant)
            if len(self.routes) >= _ROUTES:
                self.routes.clear()
            if len(topic) <= _ROUTE_LENGTH:
                self.routes[key] = found
        return found


class Mark:
    """A message: its QoS and number; 0: it is not acknowledged, or another one's acknowledgement is its own."""

    __slots__ = ("number", "qos")

    def __init__(self, qos: int, number: int) -> None:
        self.qos, self.number = qos, number


class Batch:
    """Messages in a row that are handed over together."""

    __slots__ = ("about", "marks", "size", "stamped", "texts")

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.about: list[Mapping[str, str]] = []
        """Where there is a mapping: what it sees of each."""
        self.marks: list[Mark] = []
        self.size = self.stamped = 0


class MqttConnection(Stream):
    """One connection."""

    __slots__ = (
        "_aliases",
        "_batch",
        "_broker",
        "_client_packet",
        "_connect",
        "_expiry_s",
        "_inflight",
        "_keep_alive_s",
        "_key",
        "_need",
        "_reasons",
        "_version",
    )
    name = "mqtt"
    unanswered_messages = RECEIVE_MAXIMUM + 1
    """One more than may be, so that who keeps to that is heard all the time. Of who does not, no more is read: clients that are
    disconnected for it come again with as many, and for ever."""

    def __init__(self, broker: Broker) -> None:
        """Not connected yet.

        Args:
            broker: What it shares.
        """
        super().__init__(broker.desk)
        self._broker = broker
        self._version = 0
        self._key: Key = ("", "")
        self._keep_alive_s = self._expiry_s = 0
        self._reasons, self._client_packet = True, 1 << 28
        self._aliases: dict[int, str] | None = None
        self._inflight: dict[int, Mark] = {}
        self._need = 0
        self._batch: Batch | None = None
        """What there was no room for."""

    # of the stream

    def parse(self, data: bytes) -> int:
        """Packets, as many as are whole, until it is held."""
        at = others = self._need = 0
        batch, self._batch = self._batch or Batch(), None
        try:
            if not self._give(batch):
                return 0
            while not self._held and (found := read(data, at, self._version, self._desk.longest)):
                packet, end = found
                if type(packet) is Publish:
                    if not self._add(packet, batch):
                        break
                elif not self._give(batch):
                    break
                else:
                    self._other(packet)
                    others += 1
                    if others == _OTHERS:
                        self.let_others()
                at = end
                if self._full(batch):
                    self._give(batch)
            if self._give(batch) and not self._held:
                self._want(data, at)
        except MqttError as error:
            self._give(batch)
            self._end(error)
        return at

    def whole(self, rest: bytearray, _came: int) -> bool:
        """As long as the packet's own length says."""
        return len(rest) >= self._need

    def needs(self) -> int:
        """All of the packet."""
        return self._need

    def answered(self, group: Group) -> bytes:
        """PUBACK and PUBREC of each message."""
        refused = group.verdict.refused
        found = []
        for mark in group.marks:
            number = mark.number
            if not number:
                continue
            del self._inflight[number]
            kind = answers.PUBACK if mark.qos == 1 else answers.PUBREC
            if refused and self._version == V5:
                code, why = _refusal(group)
                longest = self._client_packet if self._reasons else 0
                found.append(answers.refused(kind, number, code, why, longest))
            else:
                found.append(answers.acknowledged(kind, number))
        return b"".join(found)

    def failed(self, error: TidemarkError) -> None:
        """Not kept: the client has it still, and comes again."""
        self._bye(Code.BUSY, str(error), "not_kept")

    def overdue(self, why: str) -> None:
        """Too slow."""
        self._bye(Code.KEEP_ALIVE, why, "slow")

    def revoked(self) -> None:
        """The token is not in force any more."""
        self._bye(Code.NOT_AUTHORIZED, "The token is not in force any more.", "revoked")

    def drained(self) -> None:
        """The edge ends."""
        self._bye(Code.SHUTTING_DOWN, "", "drained")

    def taken_over(self) -> None:
        """The client has another connection."""
        self._bye(Code.TAKEN_OVER, "", "taken_over")

    def sweep(self, now: float) -> None:
        """Deadlines, and that of the client's own: one and a half times what it has named."""
        super().sweep(now)
        if (
            self._keep_alive_s
            and not self._held
            and not self._order
            and self._rest is None
            and now - self._heard > self._keep_alive_s * _PATIENCE
        ):
            self._bye(Code.KEEP_ALIVE, "", "keep_alive")

    def connection_lost(self, error: Exception | None) -> None:
        """Remember when the client was seen last."""
        super().connection_lost(error)
        self._batch = None
        if self._version:
            self._broker.sessions.end(self._key, self, self._expiry_s)

    # of packets

    def _add(self, packet: Publish, batch: Batch) -> bool:
        """A message into the batch; False: it has to wait."""
        grant, number = self._grant, packet.number
        assert grant is not None
        if packet.retain and self._version == V5:
            raise MqttError(Code.RETAIN, "nothing is retained here")
        if grant.points_per_s is not None and not self.within_quota(grant):
            return False
        topic = packet.topic
        if packet.properties:
            topic = self._aliased(topic, packet.properties.get(Property.TOPIC_ALIAS))
        mark = Mark(packet.qos, number)
        try:
            if self._desk.intake.mapper is not None:
                text, stamped = packet.payload, 0
                batch.about.append({"topic": self._broker.whole(topic)})
            else:
                text, stamped = body(self._broker.route(topic, grant), packet.payload, self._desk.intake.clock.now)
        except RefusedMessageError as refused:
            if not self._give(batch):
                return False
            self._fly(mark, again=packet.duplicate)
            self.refuse(mark, refused.reason, refused.detail, grant)
            return True
        self._fly(mark, again=packet.duplicate)
        batch.stamped += stamped
        batch.texts.append(text)
        batch.marks.append(mark)
        batch.size += len(text)
        return True

    def _full(self, batch: Batch) -> bool:
        most = min(self.unanswered_messages - self._unanswered, self.unanswered_messages >> self._halvings)
        return len(batch.texts) >= most or batch.size > _BATCH_BYTES

    def _fly(self, mark: Mark, *, again: bool) -> None:
        """It is to be acknowledged. What is sent again takes over the acknowledgement of what was sent before: there is one."""
        if not mark.number:
            return
        before = self._inflight.get(mark.number)
        if before is not None:
            if not again and self._version == V5:
                raise MqttError(Code.PROTOCOL_ERROR, f"the packet {mark.number} is not acknowledged yet")
            before.number = 0
        self._inflight[mark.number] = mark

    def _give(self, batch: Batch) -> bool:
        """Hand over what is in the batch, and empty it; False: there is no room, and it waits."""
        if not batch.texts:
            return True
        grant = self._grant
        size = min(batch.size + _MESSAGE_BYTES * len(batch.texts), self._desk.budget.most)
        assert grant is not None
        if not self.room(grant, size):
            self._batch = batch
            return False
        texts, marks, about = batch.texts, batch.marks, batch.about
        if batch.stamped:
            self._desk.counters.count("stamped", batch.stamped, grant.project)
        self._batch = None
        batch.texts, batch.marks, batch.about, batch.size, batch.stamped = [], [], [], 0, 0
        self.give(texts, marks, grant, size, about or None)
        return True

    def _other(self, packet: Packet) -> None:
        if isinstance(packet, Ping):
            self.write(answers.PINGRESP)
        elif isinstance(packet, Release):
            self.write(answers.acknowledged(answers.PUBCOMP, packet.number))
        elif isinstance(packet, Connect):
            self._begin(packet)
        elif isinstance(packet, Subscribe):
            self._desk.counters.count("subscriptions_refused", packet.filters if packet.begins else 0)
            self.write(answers.subscribed(self._version, packet.number, packet.filters, begins=packet.begins))
        elif isinstance(packet, Disconnect):
            expiry_s = packet.properties.get(Property.SESSION_EXPIRY)
            if expiry_s is not None:
                if expiry_s and not self._expiry_s:
                    raise MqttError(Code.PROTOCOL_ERROR, "a session that ends cannot be made to last")
                self._expiry_s = expiry_s
            self.count("client")
            self.close()

    def _begin(self, packet: Connect) -> None:
        """CONNECT, and its answer."""
        v5, properties = packet.version == V5, packet.properties
        if Property.AUTH_METHOD in properties:
            self._refuse(packet, Code.BAD_METHOD)
            return
        grant = self._granted(packet)
        if grant is None:
            self._refuse(packet, Code.NOT_AUTHORIZED)
            return
        client_id = packet.client_id
        if len(client_id.encode()) > CLIENT_ID_BYTES or (not client_id and not v5 and not packet.clean):
            self._refuse(packet, Code.CLIENT_ID)
            return
        sessions = self._broker.sessions
        self._key = grant.project, client_id or "auto-" + secrets.token_hex(12)
        if client_id and not sessions.allows(self._key):
            self._refuse(packet, Code.CONNECTION_RATE)
            return
        self._version, self._grant = packet.version, grant
        self._reasons = bool(properties.get(Property.PROBLEM_INFORMATION, 1))
        self._client_packet = properties.get(Property.MAXIMUM_PACKET, self._client_packet)
        self._expiry_s = properties.get(Property.SESSION_EXPIRY, 0) if v5 else 0 if packet.clean else FOR_EVER_S
        present = sessions.begin(self._key, self, clean=packet.clean, expiry_s=self._expiry_s)
        answer: dict[Property, int | str] = {}
        keep_alive_s = packet.keep_alive_s
        if v5:
            answer = self._offered()
            if not client_id:
                answer[Property.ASSIGNED_CLIENT_ID] = self._key[1]
            if not 0 < keep_alive_s <= LONGEST_KEEP_ALIVE_S:
                keep_alive_s = answer[Property.SERVER_KEEP_ALIVE] = LONGEST_KEEP_ALIVE_S
        self._keep_alive_s = keep_alive_s
        self._desk.counters.count("connects", 1, self.name, "accepted")
        if packet.will is not None:
            self._desk.counters.count("wills", 1, grant.project)
        self.write(answers.connack(packet.version, Code.SUCCESS, present=present, properties=answer))

    def _offered(self) -> dict[Property, int | str]:
        return {
            Property.RECEIVE_MAXIMUM: RECEIVE_MAXIMUM,
            Property.RETAIN_AVAILABLE: 0,
            Property.MAXIMUM_PACKET: self._desk.longest,
            Property.TOPIC_ALIAS_MAXIMUM: ALIASES,
            Property.WILDCARD_AVAILABLE: 0,
            Property.SUBSCRIPTION_ID_AVAILABLE: 0,
            Property.SHARED_AVAILABLE: 0,
        }

    def _granted(self, packet: Connect) -> Grant | None:
        """What the client may: by its token, or by its certificate."""
        grant: Grant | None = None
        if packet.password:
            self._digest = digest(packet.password.decode("utf-8", "surrogateescape"))
            grant = self._desk.tokens.of(self._digest)
        elif self._desk.names and self._transport is not None:
            name = common_name(self._transport.get_extra_info("peercert"))
            grant = Grant(name, frozenset({"write"})) if name else None
        if grant is None or "write" not in grant.may or packet.username not in (None, "", grant.project):
            return None
        return grant

    def _refuse(self, packet: Connect, code: Code) -> None:
        self._desk.counters.count("connects", 1, self.name, code.name.lower())
        self.write(answers.connack(packet.version, code))
        self.close()

    def _aliased(self, topic: str, alias: int | None) -> str:
        if alias is None:
            return topic
        if not 1 <= alias <= ALIASES:
            raise MqttError(Code.TOPIC_ALIAS, f"topic aliases are 1 to {ALIASES}")
        if self._aliases is None:
            self._aliases = {}
        if topic:
            self._aliases[alias] = topic[: self._broker.longest_topic]  # what is longer means nothing, cut or not
        elif alias not in self._aliases:
            raise MqttError(Code.PROTOCOL_ERROR, f"the topic alias {alias} is none yet")
        return self._aliases[alias]

    def _want(self, data: bytes, at: int) -> None:
        """How much has to come before there is a packet."""
        if at < len(data):
            found = length(data, at, self._version)
            self._need = found[1] - at if found else 0

    def _end(self, error: MqttError) -> None:
        if isinstance(error, UnsupportedError):
            self._desk.counters.count("connects", 1, self.name, error.code.name.lower())
            self.write(answers.connack(0, error.code))
            self.close()
        else:
            self._bye(error.code, str(error), error.code.name.lower())

    def _bye(self, code: Code, why: str, counted: str) -> None:
        """Say why, where that can be said, and close."""
        if self._closing_since:
            return
        self.count(counted)
        if self._version == V5:
            self.write(answers.disconnect(code, why if self._reasons else "", self._client_packet))
        self.close()


def _refusal(group: Group) -> tuple[Code, str]:
    """Why a message is refused, or some of its points are."""
    verdict = group.verdict
    first = verdict.rejected[0]
    code = _CODES.get(first.reason, Code.PAYLOAD)
    number = sum(verdict.refused.values())
    rest = f" ({number} points refused, {verdict.accepted} kept)" if number > 1 or verdict.accepted else ""
    return code, f"{first.reason}: {first.detail[:_REASON_BYTES]}{rest}"
