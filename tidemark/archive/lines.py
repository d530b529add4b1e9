"""Cuts lines into chunks.

A chunk ends with the last line that ends within `chunk_bytes` of its beginning, or with its first line if that is longer.
So where it ends follows from where it begins and the text alone, and reading from there on gives the same chunks again.
Chunks of nothing but white space are left out; the next one begins where they began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tidemark.archive.chunk import Chunk
from tidemark.archive.damage import DamagedError
from tidemark.archive.text import BOM, Text


def line_chunks(
    text: Text,
    begin: int,
    stop: int | None,
    *,
    chunk_bytes: int,
    max_line_bytes: int,
    skip_damaged: bool,
    told: Callable[[DamagedError], None],
) -> Iterator[Chunk]:
    """Chunks of `text`, which is where a line begins.

    Args:
        text: UTF-8, or what is taken for it.
        begin: The position where the first chunk begins: that of `text`, or less where a line's rest was left out.
        stop: A line that begins there, or behind it, is another part's; None: none is.
        chunk_bytes: How long chunks are, about.
        max_line_bytes: A line that is longer, without its newline, is not held in memory.
        skip_damaged: Go on behind damage.
        told: Is called with damage that is skipped, before the chunk that follows it.

    Raises:
        DamagedError: after the lines before it, when it is not skipped.
    """
    window = min(chunk_bytes, max_line_bytes + 1)
    if text.at == 0:
        text.fill(len(BOM))
        if text.buffer.startswith(BOM):
            text.drop(len(BOM))
            stop = None if stop is None else max(stop, text.at + 1)  # the first line is this part's, whatever it has
    while stop is None or text.at < stop:
        line, end = text.line, _end(text, window, max_line_bytes)
        if end is None:
            long = text.drop_long()
            yield Chunk(b"", begin, text.at, line, (long,))
            begin = text.at
        elif end:
            if stop is not None and text.at + end > stop:
                end = text.buffer.find(b"\n", stop - 1 - text.at) + 1 or end
            data = text.drop(end)
            if not data.isspace():
                yield Chunk(data if data.endswith(b"\n") else data + b"\n", begin, text.at, line)
                begin = text.at
        elif not text.mend(skip_damaged=skip_damaged, told=told):
            return


def _end(text: Text, window: int, max_line_bytes: int) -> int | None:
    """Where the chunk ends that begins the buffer, 0 where no whole line follows; None: its first line is too long."""
    size = window
    while True:
        text.fill(size)
        end = text.buffer.rfind(b"\n", 0, window) + 1 or text.buffer.find(b"\n", window) + 1
        if end:
            return end if end <= max_line_bytes + 1 else None
        if len(text.buffer) > max_line_bytes:
            return None
        if text.stopped:
            return len(text.buffer) if text.ended else 0
        size = min(2 * size, max_line_bytes + 1)
