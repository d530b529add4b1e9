"""From a message of MQTT to a body of the contract, by its topic.

    tidemark/{project}                       a body of the contract
    tidemark/{project}/{source}              a point or points of that source, or {"metric": number, …}
    tidemark/{project}/{source}/{metric…}    a number, on/off or true/false, or {"value": …, "event_time": …}

What has no time of its own is stamped by the edge, to the microsecond and never twice alike, so that no value overwrites
another that came with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from tidemark.edge.contract import BAD_TOPIC, FORBIDDEN
from tidemark.edge.tokens import Grant
from tidemark.wire.reasons import Reason

ROOT: Final = "tidemark"
_NUMBER: Final = re.compile(rb"\s*[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?\s*+").fullmatch
_SWITCH: Final = {b"on": b"1", b"true": b"1", b"off": b"0", b"false": b"0"}
_TEXT: Final = msgspec.json.Encoder()
_VALUE: Final = msgspec.json.Decoder()
_TIME: Final = "event_time"
_SHOWN: Final = 64


class RefusedMessageError(Exception):
    """The message is no point: the reason and a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Route(NamedTuple):
    """What a topic says: the series' source and metric, as JSON, or empty where the body says it."""

    source: bytes
    metric: bytes


class Body(NamedTuple):
    """A body of the contract, and how many of its points were stamped."""

    text: bytes
    stamped: int


def route(topic: str, grant: Grant) -> Route:
    """What it says to the bearer of a grant.

    Raises:
        RefusedMessageError: the topic means nothing, or is another project's or source's.
    """
    root, _, rest = topic.partition("/")
    project, *names = rest.split("/", 2)
    if root != ROOT or not project:
        detail = "a topic is tidemark/PROJECT, tidemark/PROJECT/SOURCE or tidemark/PROJECT/SOURCE/METRIC"
        raise RefusedMessageError(BAD_TOPIC, detail)
    if project != grant.project:
        raise RefusedMessageError(FORBIDDEN, f"The token is for the project {grant.project!r}.")
    if not all(names):
        raise RefusedMessageError(BAD_TOPIC, "the source or the metric in the topic is empty")
    if names and grant.source is not None and names[0] != grant.source:
        raise RefusedMessageError(FORBIDDEN, f"The token is for the source {grant.source!r} only.")
    return Route(*([_TEXT.encode(name) for name in names] + [b"", b""])[:2])


def body(to: Route, payload: bytes, now_us: Callable[[], int]) -> Body:
    """The body that a message means.

    Args:
        to: Its topic's.
        payload: Its own.
        now_us: The clock, in microseconds since 1970, which says nothing twice.

    Raises:
        RefusedMessageError: it means none.
    """
    if not to.source:
        return Body(payload.strip(), 0)
    try:
        return _of_value(to, payload, now_us) if to.metric else _of_source(to, payload, now_us)
    except (OverflowError, UnicodeError, RecursionError) as error:  # what was read and cannot be written
        raise RefusedMessageError(Reason.NOT_JSON, f"{_shown(payload)}: {error}") from None


def _of_value(to: Route, payload: bytes, now_us: Callable[[], int]) -> Body:
    number = payload if _NUMBER(payload) else _SWITCH.get(payload.strip().lower())
    if number is not None:
        return Body(_point(to, to.metric, _stamp(now_us()), _plain(number)), 1)
    found = _json(payload)
    if not isinstance(found, dict) or "value" not in found:
        raise RefusedMessageError(Reason.BAD_VALUE, f'{_shown(payload)} is no number and no {{"value": …}}')
    return _with_time(to, to.metric, found, now_us)


def _of_source(to: Route, payload: bytes, now_us: Callable[[], int]) -> Body:
    """Of a topic that names the source: one object, an array of them, or one a line."""
    try:
        found = _VALUE.decode(payload)
        elements = found if isinstance(found, list) else [found]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        elements = [_json(line) for line in payload.splitlines() if line.strip()]
    if not elements:
        raise RefusedMessageError(Reason.EMPTY_MESSAGE, "the message is empty")
    texts, stamped = [], 0
    for element in elements:
        text, number = _element(to, element, now_us)
        texts.append(text)
        stamped += number
    return Body(b"\n".join(texts), stamped)


def _element(to: Route, found: Any, now_us: Callable[[], int]) -> Body:
    if not isinstance(found, dict):
        raise RefusedMessageError(Reason.WRONG_SHAPE, f"{_shown(_TEXT.encode(found))} is no object")
    source = found.get("source", msgspec.UNSET)
    if source is not msgspec.UNSET and _TEXT.encode(source) != to.source:
        raise RefusedMessageError(FORBIDDEN, "the message is of another source than its topic")
    if isinstance(found.get("points"), list):
        points = [point if not isinstance(point, dict) else _timed(point, now_us) for point in found["points"]]
        stamped = sum(one is not other for one, other in zip(points, found["points"], strict=True))
        return Body(_TEXT.encode({**found, "source": msgspec.Raw(to.source), "points": points}), stamped)
    if isinstance(found.get("metric"), str):
        return _with_time(to, _TEXT.encode(found["metric"]), found, now_us)
    return _flat(to, found, now_us)


def _flat(to: Route, found: dict[str, Any], now_us: Callable[[], int]) -> Body:
    """Metrics by name, and perhaps the time of all of them."""
    time = found.pop(_TIME, None)
    shared = _stamp(now_us()) if time is None else _TEXT.encode(time)
    points = [
        b'{"metric":%b,"event_time":%b,"value":%b}' % (_TEXT.encode(name), shared, _TEXT.encode(_number(value)))
        for name, value in found.items()
        if name not in ("project", "source")
    ]
    project = b'"project":%b,' % _TEXT.encode(found["project"]) if "project" in found else b""
    text = b'{%b"source":%b,"points":[%b]}' % (project, to.source, b",".join(points))
    return Body(text, 0 if time is not None else len(points))


def _with_time(to: Route, metric: bytes, found: dict[str, Any], now_us: Callable[[], int]) -> Body:
    timed = _timed(found, now_us)
    named = {
        **timed,
        "source": msgspec.Raw(to.source),
        "metric": msgspec.Raw(metric),
        "value": _number(timed.get("value")),
    }
    return Body(_TEXT.encode(named), int(timed is not found))


def _timed(point: dict[str, Any], now_us: Callable[[], int]) -> dict[str, Any]:
    """The same point, or one with a time where it has none."""
    if point.get(_TIME) is not None:
        return point
    return {**point, _TIME: msgspec.Raw(_stamp(now_us()))}


def _point(to: Route, metric: bytes, time: bytes, value: bytes) -> bytes:
    return b'{"source":%b,"metric":%b,"event_time":%b,"value":%b}' % (to.source, metric, time, value)


def _number(value: Any) -> Any:
    """Switches are numbers; what else is none is left for the decoder to refuse."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        switched = _SWITCH.get(value.strip().lower().encode())
        return value if switched is None else int(switched)
    return value


def _plain(number: bytes) -> bytes:
    """A number as JSON writes it, from one that people write: +1, .5, 1., 007."""
    text = number.strip()
    if text[:1].isdigit() and text[-1:].isdigit() and (text[0] != 0x30 or len(text) == 1 or text[1:2] == b"."):
        return text
    found = float(text)
    return b"%r" % found if abs(found) < 1e300 else b"1e300"  # too large either way, and the decoder says so


def _stamp(now_us: int) -> bytes:
    # as text, since a number is milliseconds
    at = datetime.fromtimestamp(now_us // 1_000_000, UTC)
    return b'"%b.%06dZ"' % (at.strftime("%Y-%m-%dT%H:%M:%S").encode(), now_us % 1_000_000)


def _json(text: bytes) -> Any:
    if not text.strip():
        raise RefusedMessageError(Reason.EMPTY_MESSAGE, "the message is empty")
    try:
        return _VALUE.decode(text)
    except msgspec.ValidationError as error:  # a number that is too large
        raise RefusedMessageError(Reason.BAD_VALUE, f"{_shown(text)}: {error}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RefusedMessageError(Reason.NOT_JSON, f"{_shown(text)}: {error}") from None


def _shown(text: bytes) -> str:
    found = text[:_SHOWN].decode("utf-8", "backslashreplace")
    return repr(found + ("…" if len(text) > _SHOWN else ""))
