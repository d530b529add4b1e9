"""Messages as columns: most of them become points together, and few are ever looked at by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt

from tidemark.wire.message import LAST_EVENT_TIME, LEAST_MS, Message, accepted_time, event_time

Micros = npt.NDArray[np.int64]
SHARE_BYTES: Final = 256 << 10
UNSTATED: Final = -1
_PACKED: Final = 16
"""By what a text becomes larger when it is unpacked, as a guess."""
_LAST_MS: Final = LAST_EVENT_TIME // 1000
_DIGITS: Final = 15


class Messages(Sequence[Message]):
    """Messages as `Message` describes one; one is made when it is asked for.

    Attributes:
        data: The bodies.
        attributes: As published.
        publish_time: As of `Message`. Shape (n,), microseconds since 1970.
        message_ids: Pub/Sub's own.
        stated: What the `event_time` attributes say, in microseconds; `UNSTATED` where one says nothing. Shape (n,).
    """

    def __init__(
        self,
        data: Sequence[bytes],
        attributes: Sequence[Mapping[str, str]],
        publish_time: Micros,
        message_ids: Sequence[str],
        stated: Micros,
    ) -> None:
        self.data, self.attributes = data, attributes
        self.publish_time, self.message_ids, self.stated = publish_time, message_ids, stated

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Messages:
        """The columns of messages that are there."""
        if isinstance(messages, Messages):
            return messages
        return cls(
            [one.data for one in messages],
            [one.attributes for one in messages],
            np.array([one.publish_time for one in messages], np.int64),
            [one.message_id for one in messages],
            np.array([UNSTATED if one.stated is None else one.stated for one in messages], np.int64),
        )

    @classmethod
    def delivered(
        cls,
        data: Sequence[bytes],
        attributes: Sequence[Mapping[str, str]],
        published: Micros,
        message_ids: Sequence[str],
    ) -> Messages:
        """Messages as they came: `tidemark.wire.message.delivered` of each.

        Args:
            data: The bodies.
            attributes: As published.
            published: When Pub/Sub accepted each, in microseconds since 1970.
            message_ids: Pub/Sub's own.
        """
        accepted = [accepted_time(some) if "accepted_time" in some else None for some in attributes]
        if any(accepted):
            taken = zip(published.tolist(), accepted, strict=True)
            published = np.array([at if said is None else min(at, said) for at, said in taken], np.int64)
        return cls(data, attributes, published, message_ids, _event_times(attributes))

    @cached_property
    def packed(self) -> frozenset[int]:
        """The places of those whose body has an encoding."""
        return frozenset([at for at, some in enumerate(self.attributes) if "content_encoding" in some])

    @cached_property
    def _times(self) -> tuple[list[int], list[int]]:
        return self.publish_time.tolist(), self.stated.tolist()

    def earliest(self) -> Micros:
        """The timestamp of each: its stated event time, else its publish time. Shape (n,)."""
        return np.where(self.stated == UNSTATED, self.publish_time, self.stated)

    def unstated(self) -> int:
        """How many do not say their event time."""
        return int(np.count_nonzero(self.stated == UNSTATED))

    def __len__(self) -> int:
        return len(self.data)

    @overload
    def __getitem__(self, at: int) -> Message: ...
    @overload
    def __getitem__(self, at: slice) -> Messages: ...
    def __getitem__(self, at: int | slice) -> Any:
        if isinstance(at, slice):
            return Messages(
                self.data[at], self.attributes[at], self.publish_time[at], self.message_ids[at], self.stated[at]
            )
        attributes = self.attributes[at]
        published, stated = self._times
        return Message(
            self.data[at],
            attributes if isinstance(attributes, dict) else dict(attributes),
            published[at],
            self.message_ids[at],
            None if stated[at] == UNSTATED else stated[at],
        )


def shares(messages: Messages) -> Iterator[Messages]:
    """Messages in parts of about a quarter of a megabyte of text, so that what is made of each stays small."""
    sizes = [*map(len, messages.data)]
    for at in messages.packed:
        sizes[at] *= _PACKED
    if 0 < sum(sizes) < SHARE_BYTES:
        yield messages
        return
    begin = size = 0
    for at, own in enumerate(sizes):
        size += own
        if size >= SHARE_BYTES:
            yield messages[begin : at + 1]
            begin, size = at + 1, 0
    if begin < len(messages):
        yield messages[begin:]


def _event_times(attributes: Sequence[Mapping[str, str]]) -> Micros:
    """What `event_time` says of each; all at once where all say milliseconds."""
    texts = [some.get("event_time", "") for some in attributes]
    joined = "".join(texts)
    if joined.isascii() and joined.isdigit() and max(map(len, texts)) <= _DIGITS and "" not in texts:
        stated = np.array([*map(int, texts)], np.int64)
        if int(stated.min()) >= LEAST_MS and int(stated.max()) <= _LAST_MS:
            return stated * 1000
    found = [event_time(some) for some in attributes]
    return np.array([UNSTATED if one is None else one for one in found], np.int64)
