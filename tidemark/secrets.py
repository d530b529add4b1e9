"""Texts that are kept outside of settings: in a file, or in Secret Manager."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tidemark.errors import UnavailableError, UsageError

SECRET_S: Final = 15.0
SECRET_TRY_S: Final = 5.0
"""How long Secret Manager may take, tries included, and one of them."""


def secret(reference: str, option: str) -> str:
    """The text behind `file:/path` or `projects/P/secrets/S/versions/V`.

    Args:
        reference: One of the two.
        option: The setting that names it, for what is said.

    Raises:
        UsageError: the file or the secret cannot be read.
        UnavailableError: Secret Manager does not answer.
    """
    if reference.startswith("file:"):
        path = Path(reference.removeprefix("file:"))
        try:
            return path.read_text().strip()
        except OSError as error:
            raise UsageError(f"--{option}: the file {path} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise UsageError(f"--{option}: the file {path} is no text.") from None
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
        raise UsageError(f"--{option}: {reference} is no text.") from None
    except (ServerError, TooManyRequests, RetryError, TransportError) as error:
        raise UnavailableError(f"--{option}: {reference} cannot be read just now: {error}.") from None
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise UsageError(f"--{option}: {reference} cannot be read: {error}.") from None
