"""Reads what an option names, here or in a bucket."""

from __future__ import annotations

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from google.api_core.exceptions import GoogleAPIError


def read_location(location: str) -> bytes:
    """What lies here or in a bucket.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with FileSystems.open(location) as file:
            return bytes(file.read())
    except (BeamIOError, GoogleAPIError) as error:
        raise OSError(str(error)) from None
