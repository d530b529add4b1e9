"""The mappings that are shipped: starting points for a team's own."""

from __future__ import annotations

from importlib import resources
from typing import Final, NamedTuple

from tidemark.errors import UsageError

_PLACE: Final = resources.files("tidemark.mapping").joinpath("examples")


class Shipped(NamedTuple):
    """One of them.

    Attributes:
        name: By which it is asked for.
        text: The program.
        about: The first line of its comment.
    """

    name: str
    text: str
    about: str


def shipped() -> list[Shipped]:
    """All of them, by name."""
    found = []
    for file in sorted(_PLACE.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".jq"):
            text = file.read_text("utf-8")
            found.append(Shipped(file.name.removesuffix(".jq"), text, text.partition("\n")[0].lstrip("# ")))
    return found


def by_name(name: str) -> Shipped:
    """The one of this name.

    Raises:
        UsageError: there is none.
    """
    every = {one.name: one for one in shipped()}
    if name not in every:
        raise UsageError(f"There is no mapping {name!r}; there are {', '.join(every)}.")
    return every[name]


def samples(name: str) -> str:
    """Inputs of it, a JSON value a line."""
    return _PLACE.joinpath(f"{name}.jsonl").read_text("utf-8")
