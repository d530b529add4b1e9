"""Which raw store something belongs to."""

from __future__ import annotations

from typing import NamedTuple


class StoreIdentity(NamedTuple):
    """A raw store, told from every other one.

    Attributes:
        id: 32 hexadecimal digits, made once with the store; a replica or a restored backup has the same.
        name: Of its database, for people; may change.
    """

    id: str
    name: str

    def __str__(self) -> str:
        """For a sentence."""
        return f"the database {self.name!r} (store {self.id[:8]}…)"
