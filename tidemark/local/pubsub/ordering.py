"""Ordering keys: a lane for each key, with one batch at a time under way.

A batch is acknowledged from its head on, so a message counts as acknowledged when it and all before it are. When one
comes back, it and all behind it, acknowledged or not, are delivered again, as Pub/Sub does
(https://cloud.google.com/pubsub/docs/ordering).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from tidemark.local.pubsub.messages import Message


@dataclass(slots=True)
class _Sent:
    message: Message
    ack_id: str
    acked: bool = False


@dataclass(slots=True)
class _Lane:
    waiting: deque[Message] = field(default_factory=deque)
    sent: list[_Sent] = field(default_factory=list)


class Lanes:
    """The messages with an ordering key of one subscription that are waiting or under way."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._ready: dict[str, None] = {}
        self.waiting = 0

    def put(self, message: Message) -> None:
        """Add a message behind those of its key."""
        lane = self._lanes.setdefault(message.key, _Lane())
        lane.waiting.append(message)
        self.waiting += 1
        self._settle(message.key, lane)

    def take(self, limit: int) -> list[Message]:
        """The heads of lanes with nothing under way; each must be told of by `sent` or given back by `put_back`."""
        result: list[Message] = []
        while self._ready and len(result) < limit:
            key = next(iter(self._ready))
            del self._ready[key]
            waiting = self._lanes[key].waiting
            result.extend(waiting.popleft() for _ in range(min(limit - len(result), len(waiting))))
        self.waiting -= len(result)
        return result

    def sent(self, deliveries: Iterable[tuple[str, Message]]) -> None:
        """Note what is under way."""
        for ack_id, message in deliveries:
            self._lanes[message.key].sent.append(_Sent(message, ack_id))

    def put_back(self, messages: Iterable[Message]) -> None:
        """Undo the taking of the last of what `take` gave."""
        for message in reversed(list(messages)):
            lane = self._lanes[message.key]
            lane.waiting.appendleft(message)
            self.waiting += 1
        for message in messages:
            self._settle(message.key, self._lanes[message.key])

    def ack(self, message: Message, *, whole: bool = False) -> list[Message]:
        """Acknowledge one; the messages that are thereby acknowledged for good, with `whole` only when it is the batch."""
        lane = self._lanes[message.key]
        for sent in lane.sent:
            if sent.message.number == message.number:
                sent.acked = True
                break
        done = 0
        while done < len(lane.sent) and lane.sent[done].acked:
            done += 1
        if whole and done < len(lane.sent):
            return []
        result = [sent.message for sent in islice(lane.sent, done)]
        del lane.sent[:done]
        if not whole:
            self._settle(message.key, lane)
        return result

    def revoke(self, message: Message) -> tuple[list[str], list[Message]]:
        """One came back: the ack ids of all behind it, now void, and the messages themselves, itself first."""
        lane = self._lanes[message.key]
        at = next(index for index, sent in enumerate(lane.sent) if sent.message.number == message.number)
        back = lane.sent[at:]
        del lane.sent[at:]
        return [sent.ack_id for sent in back[1:]], [sent.message for sent in back]

    def return_to(self, key: str, messages: list[Message]) -> None:
        """Put what was revoked, or acknowledged as a whole, before all that wait."""
        lane = self._lanes[key]
        lane.waiting.extendleft(reversed(messages))
        self.waiting += len(messages)
        self._settle(key, lane)

    def _settle(self, key: str, lane: _Lane) -> None:
        if lane.sent:
            return
        if lane.waiting:
            self._ready[key] = None
        else:
            del self._lanes[key]
            self._ready.pop(key, None)
