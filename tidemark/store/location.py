"""Where the database is: the URL itself, or the secret that keeps it."""

from __future__ import annotations

from collections.abc import Callable

from tidemark.errors import UsageError
from tidemark.secrets import secret
from tidemark.settings import Values


def database_url(values: Values) -> str:
    """The database URL itself, wherever the settings keep it.

    Raises:
        UsageError: neither setting is given, or the secret cannot be read.
        UnavailableError: Secret Manager does not answer.
    """
    if values.database_url is not None:
        return str(values.database_url)
    if values.database_secret is None:
        raise UsageError("--database_url or --database_secret is missing: give one, or set TIDEMARK_DATABASE_URL.")
    return secret(values.database_secret, "database_secret")


def renewed_url(values: Values) -> Callable[[], str] | None:
    """What reads the URL again, where it is kept in a secret that may change; None: it is what was given."""
    return None if values.database_url is not None else lambda: database_url(values)
