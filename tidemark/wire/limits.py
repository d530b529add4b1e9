"""The bounds of the contract, and the checks that hold single fields against them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tidemark.settings import DAY_S, Values
from tidemark.wire import labels
from tidemark.wire.message import LAST_EVENT_TIME, LEAST_MS, moment
from tidemark.wire.reasons import Reason, RejectedError

MAX_VALUE: Final = 1e150
"""So that no sum of points and no sum of squares can overflow."""
_CANONICAL: Final = msgspec.json.Encoder(order="sorted")
_UNITS: Final = ((10**17, "nanoseconds"), (10**14, "microseconds"))
_LAST_MS: Final = LAST_EVENT_TIME // 1000


@dataclass(frozen=True)
class Limits:
    """The bounds of the contract; see `tidemark.settings.LIMITS`."""

    max_name_bytes: int = 256
    max_metric_bytes: int = 1024
    max_attributes_bytes: int = 8192
    max_attributes_depth: int = 8
    max_message_bytes: int = 8 << 20
    max_future_us: int = 600_000_000
    retention_us: int = 0

    @classmethod
    def of(cls, values: Values) -> Limits:
        """The bounds that settings give."""
        return cls(
            max_name_bytes=values.max_name_bytes,
            max_metric_bytes=values.max_metric_bytes,
            max_attributes_bytes=values.max_attributes_bytes,
            max_attributes_depth=values.max_attributes_depth,
            max_message_bytes=values.max_message_bytes,
            max_future_us=round(values.max_future_s * 1e6),
            retention_us=values.retention_days * DAY_S * 1_000_000,
        )

    def check_name(self, field: str, name: str) -> None:
        """Hold a project, source or metric against its bounds.

        Raises:
            RejectedError: it is empty or too long, has a control character, or labels in another than their one form.
        """
        most = self.max_metric_bytes if field == "metric" else self.max_name_bytes
        if field == "metric" and "{" in name and len(name) <= most:
            wrong = labels.fault(name)
            if wrong is not None:
                raise RejectedError(Reason.BAD_NAME, f"`metric` {name[:64]!r}: {wrong}")
        if name.isascii() and name.isprintable() and 1 <= len(name) <= most:
            return
        size = len(name.encode())
        if not name:
            raise RejectedError(Reason.BAD_NAME, f"`{field}` is empty")
        if size > most:
            raise RejectedError(Reason.BAD_NAME, f"`{field}` has {size} bytes of UTF-8; at most {most} are taken")
        if not name.isprintable() and any(c < " " or "\x7f" <= c <= "\x9f" for c in name):
            raise RejectedError(Reason.BAD_NAME, f"`{field}` has a control character: {name[:64]!r}")

    def canonical(self, attributes: dict[str, Any]) -> bytes:
        """Attributes as they are stored: JSON without blanks, names in order.

        Raises:
            RejectedError: too large or too deep, or there is a NUL.
        """
        self._check(attributes, self.max_attributes_depth)
        text = _CANONICAL.encode(attributes)
        if len(text) > self.max_attributes_bytes:
            raise RejectedError(
                Reason.ATTRIBUTES_TOO_LARGE,
                f"`attributes` are {len(text)} bytes as JSON; at most {self.max_attributes_bytes} are taken",
            )
        return text

    def _check(self, value: Any, depth: int) -> None:
        if isinstance(value, str):
            if "\x00" in value:
                raise RejectedError(
                    Reason.BAD_ATTRIBUTES, "a text in the attributes has a NUL, which the database refuses"
                )
        elif isinstance(value, dict | list):
            if depth == 0:
                raise RejectedError(
                    Reason.ATTRIBUTES_TOO_DEEP,
                    f"`attributes` are nested more than {self.max_attributes_depth} deep, the outermost counted",
                )
            for child in value.values() if isinstance(value, dict) else value:
                self._check(child, depth - 1)
            if isinstance(value, dict):
                for name in value:
                    self._check(name, depth)


DEFAULT: Final = Limits()


def untimely(stated: int | None, micros: int, earliest: int, latest: int) -> RejectedError:
    """Why an event time cannot be taken.

    Args:
        stated: As a whole number; None: it was a text.
        micros: The same, in microseconds since 1970 if it was milliseconds.
        earliest: What could be taken, from here
        latest: to here.
    """
    if stated is not None and 0 <= stated < LEAST_MS:
        return RejectedError(
            Reason.BAD_EVENT_TIME, f"`event_time` {stated} looks like seconds; milliseconds are wanted, or a text"
        )
    if stated is not None and stated > _LAST_MS:
        unit = next((name for least, name in _UNITS if least <= stated < 1000 * least), None)
        if unit is not None:
            return RejectedError(
                Reason.BAD_EVENT_TIME, f"`event_time` {stated} looks like {unit}; milliseconds are wanted, or a text"
            )
    if not 0 <= micros <= LAST_EVENT_TIME:
        return RejectedError(Reason.BAD_EVENT_TIME, "`event_time` lies before 1970 or after 9999")
    if micros > latest:
        return RejectedError(
            Reason.EVENT_TIME_IN_FUTURE,
            f"`event_time` {_shown(micros)} is later than {_shown(latest)}, the latest that could be when it was published",
        )
    return RejectedError(
        Reason.OLDER_THAN_RETENTION,
        f"`event_time` {_shown(micros)} is older than what is kept, from {_shown(earliest)} on",
    )


def _shown(micros: int) -> str:
    return moment(min(micros, LAST_EVENT_TIME)).isoformat().replace("+00:00", "Z")
