"""Where the database is: the URL itself, or the secret that keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tidemark.errors import UnavailableError, UsageError
from tidemark.settings import Values

SECRET_S: Final = 15.0
SECRET_TRY_S: Final = 5.0
"""How long Secret Manager may take, tries included, and one of them."""


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
    return secret(values.database_secret)


def secret(reference: str) -> str:
    """The text behind `file:/path` or `projects/P/secrets/S/versions/V`.

    Raises:
        UsageError: the file or the secret cannot be read.
        UnavailableError: Secret Manager does not answer.
    """
    if reference.startswith("file:"):
        path = Path(reference.removeprefix("file:"))
        try:
            return path.read_text().strip()
        except OSError as error:
            raise UsageError(f"--database_secret: the file {path} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise UsageError(f"--database_secret: the file {path} is no text.") from None
    # only where a secret is kept there
    from google.api_core.exceptions import GoogleAPICallError, RetryError, ServerError, TooManyRequests  # noqa: PLC0415
    from google.api_core.retry import Retry, if_exception_type  # noqa: PLC0415
    from google.auth.exceptions import GoogleAuthError, TransportError  # noqa: PLC0415
    from google.cloud.secretmanager import SecretManagerServiceClient  # noqa: PLC0415

    try:
        again = Retry(if_exception_type(ServerError, TooManyRequests), timeout=SECRET_S)
        found = SecretManagerServiceClient().access_secret_version(name=reference, retry=again, timeout=SECRET_TRY_S)
        return str(found.payload.data.decode().strip())
    except UnicodeDecodeError:
        raise UsageError(f"--database_secret: {reference} is no text.") from None
    except (ServerError, TooManyRequests, RetryError, TransportError) as error:
        raise UnavailableError(f"--database_secret: {reference} cannot be read just now: {error}.") from None
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise UsageError(f"--database_secret: {reference} cannot be read: {error}.") from None
