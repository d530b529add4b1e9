"""Who may send: tokens, of which only the SHA-256 is kept, in a file or in Secret Manager, read again when they change.

One JSON object a line: `{"sha256":"…","project":"cams","may":["write"]}`, and perhaps `"source"` (only points of it),
`"points_per_s"` and `"max_series"`. Empty lines and lines that begin with `#` are passed over.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from tidemark.errors import TidemarkError, UsageError
from tidemark.logs import log
from tidemark.secrets import secret
from tidemark.wire.limits import Limits
from tidemark.wire.reasons import RejectedError

PREFIX: Final = "tm_"
_BYTES: Final = 32
RIGHTS: Final = ("write", "read")
REMEMBERED: Final = 4096
LOOK_S: Final = 1.0
SECRET_LOOK_S: Final = 60.0
BURST_S: Final = 2.0
"""A quota may be used up so long in advance."""


class Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A token's line."""

    sha256: str
    project: str
    may: list[str]
    source: str | None = None
    points_per_s: float | None = None
    max_series: int | None = None


_LINE: Final = msgspec.json.Decoder(Line)


@dataclass
class Grant:
    """What the bearer of a token may.

    Attributes:
        project: Whose points.
        may: Of `RIGHTS`.
        source: Only points of this source; None: of any.
        points_per_s: More are refused; None: as many as come.
        max_series: More series are refused; None: as `--max_series` says.
    """

    project: str
    may: frozenset[str]
    source: str | None = None
    points_per_s: float | None = None
    max_series: int | None = None
    _left: float = field(default=0.0, init=False, compare=False)
    _at: float = field(default=0.0, init=False, compare=False)

    def wait_s(self, now: float) -> float:
        """For how long nothing more is taken, in seconds of a monotonic clock; 0: it is."""
        if self.points_per_s is None:
            return 0.0
        most = self.points_per_s * BURST_S
        self._left = min(most, self._left + (now - self._at) * self.points_per_s) if self._at else most
        self._at = now
        return max(0.0, -self._left / self.points_per_s)

    def charge(self, points: int) -> None:
        """Take points off the quota; what is taken beyond it has to be waited for."""
        self._left -= points


def new_token() -> str:
    """A token that nobody can guess: 256 bits."""
    return PREFIX + secrets.token_urlsafe(_BYTES)


def digest(token: str) -> bytes:
    """Its SHA-256, by which it is known."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def line_of(token: str, project: str, may: list[str], **more: Any) -> str:
    """The line by which a token is known."""
    line = Line(hashlib.sha256(token.encode()).hexdigest(), project, may, **more)
    return msgspec.json.encode(line).decode()


def parse(text: str) -> dict[bytes, Grant]:
    """Grants by the SHA-256 of their tokens.

    Raises:
        UsageError: a line is none. It is named by its number: nothing of it is shown.
    """
    grants: dict[bytes, Grant] = {}
    for number, line in _lines(text):
        try:
            found = _LINE.decode(line)
            digest = bytes.fromhex(found.sha256)
            Limits().check_name("project", found.project)
            if found.source is not None:
                Limits().check_name("source", found.source)
        except (msgspec.DecodeError, ValueError, RejectedError) as error:
            said = str(error) if isinstance(error, (msgspec.ValidationError, RejectedError)) else "it is no JSON object"
            raise UsageError(f"Line {number} of the tokens: {said}.") from None
        if len(digest) != hashlib.sha256().digest_size:
            raise UsageError(f"Line {number} of the tokens: `sha256` is no SHA-256 in hexadecimal digits.")
        if not found.may or set(found.may) - set(RIGHTS):
            raise UsageError(f"Line {number} of the tokens: `may` has to be of {', '.join(RIGHTS)}.")
        if not (found.points_per_s is None or found.points_per_s > 0):
            raise UsageError(f"Line {number} of the tokens: `points_per_s` must be more than 0.")
        if not (found.max_series is None or found.max_series > 0):
            raise UsageError(f"Line {number} of the tokens: `max_series` must be more than 0.")
        if digest in grants:
            raise UsageError(f"Line {number} of the tokens has a token that an earlier one has already.")
        grants[digest] = Grant(found.project, frozenset(found.may), found.source, found.points_per_s, found.max_series)
    return grants


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


class Tokens:
    """Those of one place, kept up to date; what was read last stays while a newer one cannot be read."""

    def __init__(self, reference: str, read: Callable[[str, str], str] = secret) -> None:
        """Read them.

        Args:
            reference: `file:/path`, or a version in Secret Manager.
            read: Gives the text behind it.

        Raises:
            UsageError: they cannot be read.
            UnavailableError: Secret Manager does not answer.
        """
        self._reference, self._read = reference, read
        self._path = Path(reference.removeprefix("file:")) if reference.startswith("file:") else None
        self._state = self._now()
        self._looked = time.monotonic()
        self._grants = parse(read(reference, "tokens"))
        self._remembered: dict[bytes, Grant] = {}
        self.wrong: TidemarkError | None = None
        """Why the tokens in use are not the newest; None: they are."""

    def grant(self, token: str) -> Grant | None:
        """What its bearer may; None: it is no token. Found by its SHA-256, so how long it takes says nothing about it."""
        return self._grants.get(digest(token))

    def of(self, sha256: bytes) -> Grant | None:
        """What the bearer of the token with this `digest` may now; None: it is not in force any more."""
        return self._grants.get(sha256)

    def remembered(self, header: bytes) -> Grant | None:
        """The grant that was found for a header before; by equality of the whole of it, among good ones only."""
        return self._remembered.get(header)

    def remember(self, header: bytes, grant: Grant) -> None:
        """Spare the hash the next time."""
        if len(self._remembered) >= REMEMBERED:
            self._remembered.clear()
        self._remembered[header] = grant

    def __len__(self) -> int:
        return len(self._grants)

    def due(self) -> bool:
        """Whether it is time for `look`: never more than once a second."""
        now = time.monotonic()
        if now - self._looked < (LOOK_S if self._path else SECRET_LOOK_S):
            return False
        self._looked = now
        return self._path is None or self._now() != self._state

    def look(self) -> dict[bytes, Grant] | None:
        """The grants as they are now, for `use`; None: they cannot be read, which is said. May wait for Secret Manager."""
        state = self._now()
        try:
            found = parse(self._read(self._reference, "tokens"))
        except TidemarkError as error:
            self.wrong = error
            log.error("%s The tokens that were read before stay in force.", error)
            return None
        self._state, self.wrong = state, None
        return found

    def use(self, grants: dict[bytes, Grant]) -> bool:
        """Put them in force, each with what is left of its quota; whether anything changed."""
        old = self._grants
        if grants == old:
            return False
        self._remembered.clear()
        self._grants = {digest: old[digest] if old.get(digest) == grant else grant for digest, grant in grants.items()}
        return True

    def _now(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def bearer(authorization: bytes) -> str:
    """The token of `Bearer T`, of `Token T`, or of `Basic` as its password; empty: none."""
    scheme, _, rest = authorization.strip().partition(b" ")
    kind, text = scheme.lower(), rest.strip()
    if kind == b"basic":
        try:
            text = base64.b64decode(text, validate=True).partition(b":")[2]
        except binascii.Error:
            return ""
    elif kind not in (b"bearer", b"token"):
        return ""
    return text.decode("utf-8", "surrogateescape")
