"""From the driver's errors to Tidemark's: the one place that knows SQLSTATEs."""

from __future__ import annotations

import struct
from typing import Final

import pg8000.exceptions
import sqlalchemy.exc

from tidemark.errors import MisconfiguredError, RefusedError, TidemarkError, UnavailableError

_TRANSIENT_CLASSES: Final = ("08",)
_TRANSIENT: Final = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "53000",  # insufficient_resources
        "53100",  # disk_full
        "53200",  # out_of_memory
        "53300",  # too_many_connections
        "53400",  # configuration_limit_exceeded
        "55P03",  # lock_not_available
        "57014",  # query_canceled
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
        "57P05",  # idle_session_timeout
        "25P03",  # idle_in_transaction_session_timeout
        "55000",  # object_not_in_prerequisite_state: a standby that is being promoted
        "25006",  # read_only_sql_transaction: connected to a standby
        "58030",  # io_error
        "XX000",  # internal_error
    }
)
_PERMANENT_CLASSES: Final = ("22", "54")
_PERMANENT: Final = frozenset({"23502", "23514"})

DRIVER_ERRORS: Final = (sqlalchemy.exc.SQLAlchemyError, pg8000.exceptions.Error, OSError, struct.error)
"""All that SQLAlchemy and pg8000 raise; pg8000 lets a few socket errors through as they are."""


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE that the server gave, or an empty text when the connection broke."""
    cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    if isinstance(cause, pg8000.exceptions.DatabaseError) and cause.args and isinstance(cause.args[0], dict):
        return str(cause.args[0].get("C", ""))
    return ""


def translate(error: BaseException) -> TidemarkError:
    """The Tidemark error for one of `DRIVER_ERRORS`: transient, permanent for this data, or for a person to mend."""
    code = sqlstate(error)
    cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    if code:
        said = str(cause.args[0].get("M", "")) if cause is not None else ""
        if code in _TRANSIENT or code.startswith(_TRANSIENT_CLASSES):
            return UnavailableError(f"The database cannot serve just now: {said} (SQLSTATE {code}).")
        if code in _PERMANENT or code.startswith(_PERMANENT_CLASSES):
            return RefusedError(f"The database refuses the data: {said} (SQLSTATE {code}).", code=code)
        return MisconfiguredError(
            f"The database is not as it must be: {said} (SQLSTATE {code}); run `tidemark migrate`, or check the grants."
        )
    if isinstance(cause, (pg8000.exceptions.Error, OSError, struct.error, sqlalchemy.exc.TimeoutError)):
        return UnavailableError(f"The database does not answer: {cause}.")
    return MisconfiguredError(f"The database cannot be used: {error}.")
