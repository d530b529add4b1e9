"""Reads what an option names, here or in a bucket."""

from __future__ import annotations

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from google.api_core.exceptions import GoogleAPIError, NotFound
from google.auth.exceptions import GoogleAuthError


def read_location(location: str) -> bytes:
    """What lies here or in a bucket.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with FileSystems.open(location) as file:
            return bytes(file.read())
    except NotFound:
        raise OSError("there is no such object") from None
    except (BeamIOError, GoogleAPIError, GoogleAuthError, ValueError) as error:
        # a ValueError: it is no location of the bucket's form, or of no file system that there is
        raise OSError(str(error).rstrip(".")) from None
