"""From the driver's errors to Tidemark's: the one place that knows SQLSTATEs.

The table below is the whole policy; docs/reference/database-errors.md is made from it.
Codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

import pg8000.exceptions
import sqlalchemy.exc

from tidemark.errors import MisconfiguredError, RefusedError, TidemarkError, UnavailableError

DRIVER_ERRORS: Final = (sqlalchemy.exc.SQLAlchemyError, pg8000.exceptions.Error, OSError, struct.error)
"""All that SQLAlchemy and pg8000 raise; pg8000 lets a few socket errors through as they are."""

NO_PRIMARY: Final = ("25006",)
"""The server serves, but takes no writes any more: connections to it are given up, the primary may be elsewhere."""
UNIQUE_VIOLATION: Final = "23505"
TOO_MUCH: Final = ("53000", "53200", "53400", "57014")
"""Locks, memory, a limit or the time of a statement: less at once may do."""
CAP: Final = 10
"""Failures in a row after which a capped state is one for a person to mend."""


class Kind(enum.Enum):
    """What is done about an error; the value is the sentence of the reference page."""

    TRANSIENT = "tried again, with a back-off, for as long as it lasts"
    CAPPED = f"tried again; after {CAP} failures in a row it is told as something to mend, and still tried"
    PERMANENT = "the points that cause it are found and become dead letters; the rest is stored"
    MISCONFIGURED = "waits for a person, tells once a minute what to mend, and goes on by itself once it is mended"


class State(NamedTuple):
    """An SQLSTATE, or a class of them by its first two characters; a longer code goes before its class."""

    code: str
    name: str
    kind: Kind


STATES: Final = (
    State("08", "connection_exception, the whole class", Kind.TRANSIENT),
    State("22", "data_exception, the whole class", Kind.PERMANENT),
    State(
        "22P03",
        "invalid_binary_representation: a column has another type than the migrations gave it",
        Kind.MISCONFIGURED,
    ),
    State("23502", "not_null_violation", Kind.PERMANENT),
    State("23514", "check_violation", Kind.PERMANENT),
    State("25006", "read_only_sql_transaction: a standby, or a primary that was demoted", Kind.TRANSIENT),
    State("25P03", "idle_in_transaction_session_timeout", Kind.TRANSIENT),
    State("28", "invalid_authorization_specification, the whole class", Kind.MISCONFIGURED),
    State("3D000", "invalid_catalog_name: no such database", Kind.MISCONFIGURED),
    State("40001", "serialization_failure", Kind.TRANSIENT),
    State("40P01", "deadlock_detected", Kind.TRANSIENT),
    State(
        "42",
        "syntax_error_or_access_rule_violation, the whole class: no such table or column, no grant",
        Kind.MISCONFIGURED,
    ),
    State("53000", "insufficient_resources", Kind.TRANSIENT),
    State("53100", "disk_full", Kind.TRANSIENT),
    State("53200", "out_of_memory", Kind.TRANSIENT),
    State("53300", "too_many_connections", Kind.TRANSIENT),
    State("53400", "configuration_limit_exceeded", Kind.CAPPED),
    State("54", "program_limit_exceeded, the whole class", Kind.PERMANENT),
    State("55000", "object_not_in_prerequisite_state: a standby that is being promoted", Kind.CAPPED),
    State("55P03", "lock_not_available", Kind.TRANSIENT),
    State("57014", "query_canceled: a statement took longer than its timeout", Kind.CAPPED),
    State("57P01", "admin_shutdown", Kind.TRANSIENT),
    State("57P02", "crash_shutdown", Kind.TRANSIENT),
    State("57P03", "cannot_connect_now", Kind.TRANSIENT),
    State("57P05", "idle_session_timeout", Kind.TRANSIENT),
    State("58030", "io_error", Kind.TRANSIENT),
    State("XX", "internal_error, the whole class", Kind.CAPPED),
)
OTHERS: Final = Kind.MISCONFIGURED
"""A state that is not in the table."""
LOST: Final = Kind.TRANSIENT
"""No state at all: the socket broke, or nobody answered in time."""
_KINDS: Final = {state.code: state.kind for state in STATES}


def kind(code: str) -> Kind:
    """What is done about an SQLSTATE."""
    return _KINDS.get(code) or _KINDS.get(code[:2]) or OTHERS


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE that the server gave, or an empty text when the connection broke."""
    return _fields(error).get("C", "")


def survives(error: BaseException) -> bool:
    """The connection can be used on: the server told the error and goes on serving; after any other it is unknown."""
    fields = _fields(error)
    return fields.get("V") == "ERROR" and fields.get("C") not in NO_PRIMARY


def _fields(error: BaseException) -> dict[str, str]:
    """What the server said, by the letters of https://www.postgresql.org/docs/current/protocol-error-fields.html ."""
    cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    if isinstance(cause, pg8000.exceptions.DatabaseError) and cause.args and isinstance(cause.args[0], dict):
        return dict(cause.args[0])
    return {}


def said(error: BaseException) -> str:
    """What the server said, or what became of the connection; no full stop at its end."""
    fields = _fields(error)
    if fields:
        return fields.get("M", "").rstrip(".")
    cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None else error
    told = str(cause).rstrip(".")
    below = cause.__cause__
    if isinstance(below, OSError) and below.strerror:
        return f"{told}: {below.strerror}"
    return told


def translate(error: BaseException) -> TidemarkError:
    """The Tidemark error for one of `DRIVER_ERRORS`: transient, permanent for this data, or for a person to mend."""
    code = sqlstate(error)
    cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    if code:
        return translated(code, said(error))
    if isinstance(cause, (pg8000.exceptions.Error, OSError, struct.error, sqlalchemy.exc.TimeoutError)):
        return UnavailableError(f"The database does not answer: {said(error)}.")
    return MisconfiguredError(f"The database cannot be used: {error}.")


def translated(code: str, text: str) -> TidemarkError:
    """The same for an SQLSTATE and what the server said, without a full stop, whichever driver has told them."""
    what = kind(code)
    if what is Kind.TRANSIENT:
        said_so = f"The database cannot serve just now: {text} (SQLSTATE {code})."
        return UnavailableError(said_so, too_much=code in TOO_MUCH)
    if what is Kind.CAPPED:
        said_so = f"The database cannot do this just now: {text} (SQLSTATE {code})."
        return UnavailableError(said_so, cap=CAP, too_much=code in TOO_MUCH)
    if what is Kind.PERMANENT:
        return RefusedError(f"The database refuses the data: {text} (SQLSTATE {code}).", code=code)
    mend = "correct the user or the password" if code[:2] == "28" else "run `tidemark migrate`, or check the grants"
    return MisconfiguredError(f"The database is not as it must be: {text} (SQLSTATE {code}); {mend}.")
