"""A mapping: a jq program that makes points of the contract out of a sender's own JSON.

Its input is one value, `{"body": …, "attributes": {…}, "publish_time": "…", "message_id": "…"}`; each of its outputs is a
point or a batch of points. No output: the value is filtered.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from tidemark.errors import MisconfiguredError, UsageError
from tidemark.settings import Values

_MODULE: Final = re.compile(r"(?:\s|#[^\n]*(?:\n|\Z))*+module\s*+(\{[^;]*\})\s*+;")
_COMPILER: Final = re.compile(
    r"^jq: error: (.*?) at (?:<top-level>|<unknown>)?,? ?line (\d+), column (\d+):\n", re.DOTALL
)
_HALTS: Final = 'def halt: error("it halts"); def halt_error: error; def halt_error($status): error; '
_BODY, _WHOLE, _VALUES = "body", "whole", "values"


@dataclass(frozen=True)
class Program:
    """A compiled mapping's text.

    Attributes:
        text: Of the program.
        name: Of its file, for messages.
        whole: A body that is an array is one value; otherwise each of its elements is.
        cpu_s: Most CPU time for one value, in seconds.
    """

    text: str
    name: str
    whole: bool = False
    cpu_s: float = 1.0

    @property
    def run(self) -> str:
        """What is run of it: without its directive, and where it halts, that is an error, which would pass for no output."""
        return _HALTS + _MODULE.sub("", self.text, count=1)


def program(text: str, name: str, cpu_s: float = 1.0) -> Program:
    """Check the text of a program.

    Raises:
        UsageError: jq cannot compile it: one sentence with line and column; or its `module` says what nobody knows.
        MisconfiguredError: jq is not installed.
    """
    compiled(text, name)
    return Program(text, name, _body_of(text, name) == _WHOLE, cpu_s)


def compiled(text: str, name: str) -> Any:
    """What jq makes of it."""
    try:
        import jq  # noqa: PLC0415  # only where a mapping is used
    except ImportError:
        raise MisconfiguredError("A mapping needs jq, which is not installed here: pip install jq.") from None
    try:
        return jq.compile(text)
    except ValueError as error:
        raise UsageError(f"{name} cannot be compiled: {_told(str(error))}") from None


def of_settings(values: Values, read: Callable[[str], bytes] | None = None) -> Program | None:
    """What `--mapping` and `--mapping_cpu_s` give; None: there is none.

    Args:
        values: Settings.
        read: Reads a location; by default a file of this machine.

    Raises:
        UsageError: it cannot be read, is no UTF-8, or cannot be compiled.
        MisconfiguredError: as `program`.
    """
    return None if values.mapping is None else in_file(values.mapping, values.mapping_cpu_s, read)


def in_file(location: str, cpu_s: float = 1.0, read: Callable[[str], bytes] | None = None) -> Program:
    """The program in a file.

    Raises:
        UsageError: it cannot be read, is no UTF-8, or cannot be compiled.
        MisconfiguredError: as `program`.
    """
    try:
        text = (read or _read)(location).decode()
    except OSError as error:
        raise UsageError(f"The mapping {location} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"The mapping {location} is no UTF-8: byte {error.start}.") from None
    return program(text, location, cpu_s)


def _read(location: str) -> bytes:
    if "://" in location:
        raise OSError("only the launch of a pipeline reads from elsewhere; copy it to this machine")
    return Path(location).read_bytes()


def _told(error: str) -> str:
    """The first of jq's errors as a sentence."""
    found = _COMPILER.match(error)
    if found is not None:
        return f"line {found[2]}, column {found[3]}: {' '.join(found[1].split())}."
    first = error.removeprefix("jq: error: ").partition("\n")[0].strip()
    return f"{first}." if first else "jq does not say why."


def _body_of(text: str, name: str) -> str:
    """What the `module` directive says of bodies."""
    found = _MODULE.match(text)
    if found is None:
        return _VALUES
    try:
        stated = msgspec.json.decode(found[1])
    except msgspec.DecodeError:
        stated = None
    if (
        not isinstance(stated, dict)
        or not set(stated) <= {_BODY}
        or stated.get(_BODY, _VALUES) not in (_WHOLE, _VALUES)
    ):
        raise UsageError(f'{name}: its module directive may only be {{"body": "whole"}} or {{"body": "values"}}.')
    return str(stated.get(_BODY, _VALUES))
