"""Reads a database URL as people have it: from a provider's console, a Kubernetes secret, another program's settings."""

from __future__ import annotations

import re
import shlex
import ssl
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import sqlalchemy
from sqlalchemy import URL

from tidemark.errors import UsageError
from tidemark.logs import log

_SCHEMES: Final = re.compile(r"postgres(?:ql)?(?:\+\w+)?")
_LOOKS_LIKE: Final = "it looks like postgresql://user:password@host:5432/name"
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?|[0-9A-Fa-f:.]+(?:%\w+)?")
_TLS_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_UNDERSTOOD: Final = {
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
}
_NOT_USED: Final = {
    "channel_binding",
    "client_encoding",
    "connection_limit",
    "fallback_application_name",
    "gssencmode",
    "gsslib",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "passfile",
    "pgbouncer",
    "pool_timeout",
    "prepareThreshold",
    "prepare_threshold",
    "prepared_statements",
    "require_auth",
    "requirepeer",
    "requiressl",
    "schema",
    "sslcompression",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslsni",
    "statement_cache_size",
    "supa",
    "target_session_attrs",
    "tcp_user_timeout",
}
"""Of libpq, of poolers and of other drivers: what they ask for is so anyway, or is not for this driver."""
_ASSIGNED: Final = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
_told: Final[set[str]] = set()


class Address(NamedTuple):
    """Where a database is, and how it is reached.

    Attributes:
        url: For SQLAlchemy, without parameters.
        arguments: Of the driver.
        settings: What `options` states for each connection.
    """

    url: URL
    arguments: dict[str, Any]
    settings: dict[str, str]


def read_url(database_url: str) -> Address:
    """Take a URL apart.

    Raises:
        UsageError: it cannot be read; the sentence shows nothing of it.
    """
    try:
        url = sqlalchemy.make_url(database_url.strip())
    except (sqlalchemy.exc.ArgumentError, ValueError):  # the second for a port that is no number
        raise UsageError(f"--database_url cannot be read; {_LOOKS_LIKE}.") from None
    given = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    _check_names(given)
    url = url.set(
        drivername="postgresql+pg8000" if _SCHEMES.fullmatch(url.drivername) else url.drivername,
        username=given.get("user", url.username),
        password=given.get("password", url.password),
        database=given.get("dbname", url.database),
        port=_whole(given, "port", url.port),
        query={},
    )
    arguments: dict[str, Any] = {"ssl_context": tls_context(given)}
    host = re.sub("%2f", "/", given.get("host", url.host) or "", flags=re.IGNORECASE)
    if host.startswith("/"):
        arguments["unix_sock"] = f"{host}/.s.PGSQL.{url.port or 5432}"
        host = ""
    url = url.set(host=host)
    _check(url, local="unix_sock" in arguments)
    if "application_name" in given:
        arguments["application_name"] = given["application_name"]
    if "connect_timeout" in given:
        timeout_s = _whole(given, "connect_timeout", 0)
        if timeout_s:
            arguments["timeout"] = max(2, timeout_s)  # as libpq does
    return Address(url, arguments, _options(given.get("options", "")))


def _check_names(given: Mapping[str, str]) -> None:
    unknown = sorted(given.keys() - _UNDERSTOOD - _NOT_USED)
    if unknown:
        known = ", ".join(sorted(_UNDERSTOOD))
        shown = repr(unknown[0]) if re.fullmatch(r"\w{1,40}", unknown[0]) else "that is no name"
        raise UsageError(f"--database_url has an unknown parameter {shown}; known are {known}.")
    not_used = sorted(given.keys() & _NOT_USED - _told)
    if not_used:
        _told.update(not_used)
        log.warning("Of the database URL is not used, and not needed: %s.", ", ".join(not_used))


def _check(url: URL, *, local: bool) -> None:
    if not _SCHEMES.fullmatch(url.drivername.partition("+")[0]):
        raise UsageError(f"--database_url is of no PostgreSQL; {_LOOKS_LIKE}.")
    if not url.username:
        raise UsageError(f"--database_url has no user; {_LOOKS_LIKE}.")
    if not url.database:
        raise UsageError(f"--database_url has no name of a database at its end; {_LOOKS_LIKE}.")
    host = url.host or ""
    if "," in host:
        raise UsageError("--database_url has several hosts; give the one that leads to the primary.")
    if "@" in host or "/" in (url.database or ""):
        raise UsageError(
            "--database_url cannot be read: a character of the user or the password has to be written as %40 for @,"
            " %2F for /, %3A for :, %3F for ?, %23 for #, %25 for %."
        )
    if not host and not local:
        raise UsageError(f"--database_url has no host; {_LOOKS_LIKE}.")
    if host and not _HOST.fullmatch(host):
        raise UsageError(f"--database_url has a host that is none; {_LOOKS_LIKE}.")
    if url.port is not None and not 1 <= url.port <= 65_535:
        raise UsageError("--database_url has a port that is none: 1 to 65535.")


def _whole(given: Mapping[str, str], name: str, default: int | None) -> int | None:
    text = given.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise UsageError(f"--database_url: {name} needs a whole number.")
    return int(text)


def _options(text: str) -> dict[str, str]:
    """What libpq's `options` sets: `-c name=value`, or `--name=value`."""
    refused = UsageError("--database_url: of options, -c name=value is understood, and nothing else.")
    try:
        words = shlex.split(text)
    except ValueError:
        raise refused from None
    settings: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word += words.pop(0)
        found = _ASSIGNED.fullmatch(word[2:]) if word.startswith(("-c", "--")) else None
        if found is None:
            raise refused
        settings[found[1]] = found[2]
    return settings


def tls_context(given: Mapping[str, str]) -> ssl.SSLContext | bool | None:
    """The TLS that libpq's parameters ask for, as pg8000 takes it: False is none, None is as the server likes.

    Raises:
        UsageError: an unknown mode, or a file that cannot be read.
    """
    mode = given.get("sslmode", "prefer")
    if mode not in _TLS_MODES:
        raise UsageError(f"--database_url: sslmode is one of {', '.join(_TLS_MODES)}.")
    if mode in ("disable", "allow", "prefer"):
        return False if mode == "disable" else None
    authorities = given.get("sslrootcert")
    try:
        context = ssl.create_default_context(cafile=None if authorities == "system" else authorities)
        if "sslcert" in given:
            context.load_cert_chain(given["sslcert"], given.get("sslkey"))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"--database_url: sslrootcert, sslcert or sslkey cannot be used: {error.strerror or error}."
        ) from None
    context.check_hostname = mode == "verify-full"
    # as libpq does: `require` verifies where it was given something to verify by
    verify = mode != "require" or authorities is not None
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    return context
