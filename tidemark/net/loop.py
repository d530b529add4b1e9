"""The event loop of a service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def in_loop(made: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run in uvloop where it can be had, which takes a tenth off."""
    try:
        import uvloop  # noqa: PLC0415  # not for every platform
    except ImportError:
        return asyncio.run(made())
    return uvloop.run(made())
