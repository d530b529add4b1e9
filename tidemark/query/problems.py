"""What is answered where there is no answer: RFC 9457, a sentence and what it is about."""

from __future__ import annotations

from typing import Any, Final

import msgspec

TITLES: Final = {
    "bad-parameter": (400, "A parameter cannot be used."),
    "unauthorized": (401, "A token is needed."),
    "forbidden": (403, "The token does not allow it."),
    "no-such-path": (404, "There is no such path."),
    "no-such-series": (404, "There is no such series."),
    "method-not-allowed": (405, "The path has no such method."),
    "not-acceptable": (406, "It cannot be had in that form."),
    "body-not-allowed": (413, "A request has no body here."),
    "too-many-series": (422, "That is of too many series."),
    "too-many-intervals": (422, "That is too many intervals."),
    "too-many-points": (422, "That reads too many points."),
    "answer-too-large": (422, "The answer would be too large."),
    "too-many-requests": (429, "Too much is asked at once."),
    "failed": (500, "This should not have happened; it is in the log."),
    "unavailable": (503, "The database cannot be asked just now."),
    "too-slow": (503, "It took too long."),
}
"""By kind: the status and the title of every problem that is answered with."""
_TEXT: Final = msgspec.json.Encoder()


class ProblemError(Exception):
    """One of `TITLES`.

    Attributes:
        kind: Which.
        detail: In a sentence.
        more: What else is told, by name.
        retry_s: After how long it may be asked again; 0: not the same.
    """

    def __init__(self, kind: str, detail: str, *, retry_s: int = 0, **more: Any) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.retry_s, self.more = kind, detail, retry_s, more

    @property
    def status(self) -> int:
        """Of HTTP."""
        return TITLES[self.kind][0]

    def body(self) -> bytes:
        """`application/problem+json`."""
        status, title = TITLES[self.kind]
        told = {"type": f"urn:tidemark:{self.kind}", "title": title, "status": status, "detail": self.detail}
        return _TEXT.encode({**told, **{name.replace("_", "-"): value for name, value in self.more.items()}}) + b"\n"


def bad(parameter: str, detail: str) -> ProblemError:
    """A parameter that cannot be."""
    return ProblemError("bad-parameter", detail, parameter=parameter)
