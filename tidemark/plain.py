"""What others have written, for a terminal: nothing in it is obeyed, and nothing of it is invisible."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Printable for Unicode, and yet nothing is seen."""


def plain(text: str) -> str:
    """Text with escapes for what a terminal would obey, and for what is not seen on it."""
    return text if text.isascii() and text.isprintable() else "".join(map(_plain, text))


def in_place(text: str) -> str:
    """The same with each character in one cell, from the left to the right, so that a mark can stand under one of them."""
    return text if text.isascii() and text.isprintable() else "".join(map(_in_place, text))


def _plain(c: str) -> str:
    seen = c.isprintable() and (c.isascii() or not _INVISIBLE.match(c))
    return c if seen else _escaped(c)


def _in_place(c: str) -> str:
    narrow = not unicodedata.combining(c) and unicodedata.category(c)[0] != "M"
    narrow = narrow and unicodedata.east_asian_width(c) not in "WF"
    return _plain(c) if narrow and unicodedata.bidirectional(c) not in ("R", "AL", "AN") else _escaped(c)


def _escaped(c: str) -> str:
    return c.encode("unicode_escape").decode()
