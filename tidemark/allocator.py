"""How a process gives memory back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
from typing import Final

_ARENA_MAX, _MMAP_THRESHOLD = -8, -3
"""M_ARENA_MAX and M_MMAP_THRESHOLD of malloc.h."""
MAPPED_BYTES: Final = 1 << 18
TRIM_S: Final = 5.0


class Allocator:
    """glibc's, which keeps what was freed: threads work on blocks and answers of megabytes in turn.

    To be made before there are threads. Elsewhere than on Linux with glibc nothing is done: other libraries have
    neither the trouble nor the calls. In the image environment variables do the same.
    """

    def __init__(self) -> None:
        self._library: ctypes.CDLL | None = None
        self._trimmed = time.monotonic()
        if sys.platform.startswith("linux"):
            with contextlib.suppress(OSError, AttributeError):
                library = ctypes.CDLL("libc.so.6")
                # two pools instead of eight a core, each of which would keep the most that it ever needed
                library.mallopt(_ARENA_MAX, 2)
                # an array goes back to the system when it is freed: glibc raises this by itself to 32 MB
                library.mallopt(_MMAP_THRESHOLD, MAPPED_BYTES)
                self._library = library

    def trim(self) -> None:
        """Give free pages back to the system, every `TRIM_S`."""
        if self._library is not None and time.monotonic() >= self._trimmed + TRIM_S:
            self._trimmed = time.monotonic()
            self._library.malloc_trim(0)
