"""The shapes of a body: a point, or a batch that shares its head."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

from tidemark.wire.reasons import Reason, RejectedError

EventTime = int | Annotated[datetime, msgspec.Meta(tz=True)]


Nothing = Annotated[int, msgspec.Meta(gt=0, lt=0)] | msgspec.UnsetType
"""Of a field that must not be there: no value is one."""


class Point(msgspec.Struct, gc=False):
    metric: str
    event_time: EventTime
    value: float
    attributes: dict[str, Any] | None = None


class BatchPoint(Point, gc=False):
    """Of a batch in whose points nothing of its head stands; one in which it does needs a closer look."""

    project: Nothing = msgspec.UNSET
    source: Nothing = msgspec.UNSET
    points: Nothing = msgspec.UNSET


class NamedPoint(Point, gc=False):
    """With what stands in a batch's head, or is a batch of its own."""

    project: str | msgspec.UnsetType = msgspec.UNSET
    source: str | msgspec.UnsetType = msgspec.UNSET
    points: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


NO_PROJECT: Final = "\x00 none \x00"
"""Of a body that says none, until `named` has given it the message's: this very object, whatever senders write."""


class Body(msgspec.Struct, kw_only=True, gc=False):
    project: str = NO_PROJECT
    source: str
    metric: str | msgspec.UnsetType = msgspec.UNSET
    event_time: EventTime | msgspec.UnsetType = msgspec.UNSET
    value: float | msgspec.UnsetType = msgspec.UNSET
    attributes: dict[str, Any] | None = None
    points: list[BatchPoint] | msgspec.UnsetType = msgspec.UNSET


BODY: Final = msgspec.json.Decoder(Body)
BODIES: Final = msgspec.json.Decoder(list[Body])
POINT: Final = msgspec.json.Decoder(NamedPoint)
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
MISSING: Final = "a point needs metric, event_time and value"


def named(item: Body, project: str | None) -> Body:
    """A body with its project, or the one that its message's attribute says.

    Raises:
        msgspec.ValidationError: it has none.
    """
    if item.project is NO_PROJECT:
        if project is None:
            raise msgspec.ValidationError("Object missing required field `project`")
        item.project = project
    return item


def check_head(item: Body) -> None:
    """Refuse what is a batch and a point at once: nobody could say what is meant."""
    for name in ("metric", "event_time", "value"):
        if getattr(item, name) is not msgspec.UNSET:
            raise RejectedError(Reason.WRONG_SHAPE, f"it has `points` and `{name}`: it is a batch or a point, not both")
    if item.attributes:
        raise RejectedError(Reason.WRONG_SHAPE, "a batch's attributes stand in each of its points")
