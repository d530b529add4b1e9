"""Runs a mapping over values, in a process of its own: one that does not end is stopped, and the others go on."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from tidemark.errors import MisconfiguredError
from tidemark.mapping.program import Program

_CHILD: Final = str(Path(__file__).with_name("child.py"))
_LENGTH: Final = struct.Struct("<I")
_ANSWER: Final = struct.Struct("<BI")
READY: Final = b"\x02"
_READ_BYTES: Final = 1 << 18
AT_ONCE: Final = 1000
"""Values sent together, or as many as have so many bytes:"""
BYTES_AT_ONCE: Final = 1 << 20
MEMORY_BYTES: Final = 512 << 20
_WALL_FACTOR: Final = 60
"""A value that had no answer for so many times its CPU has none: the process may be stopped, or the machine be asleep."""
_KEPT: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Of the environment, which jq programs can read, and in which passwords stand."""


class Outcome(NamedTuple):
    """What became of one value.

    Attributes:
        outputs: JSON, one a line; empty: there were none.
        failed: jq's sentence; None: it went well.
    """

    outputs: bytes
    failed: str | None = None


class _DiedError(Exception):
    """The process is gone, or silent, with answers owed.

    Attributes:
        told: The answers that came.
        at: The number of the value that it was at.
        why: As a sentence; None: nobody knows, and another process may do better.
    """

    def __init__(self, told: list[Outcome], at: int, why: str | None) -> None:
        super().__init__(why)
        self.told, self.at, self.why = told, at, why


class Runner:
    """One process of a mapping; started when it is first needed, and again when a value has ended it. Not for several threads.

    Args:
        program: Compiled.
        output_bytes: Most bytes of one value's outputs.
    """

    def __init__(self, program: Program, output_bytes: int) -> None:
        self._program, self._cpu_s, self._output_bytes = program, program.cpu_s, output_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._place: mmap.mmap | None = None
        """Shared with the process: at which value it is."""
        self._unread = b""

    def run(self, values: Sequence[bytes]) -> list[Outcome]:
        """Map values, each by itself.

        Args:
            values: Each the JSON text of one input.

        Returns:
            What became of each, in their order.

        Raises:
            MisconfiguredError: the process cannot be started.
        """
        outcomes: list[Outcome] = []
        for some in _slices(values):
            outcomes += self._run_some(some)
        return outcomes

    def start(self) -> None:
        """Begin the process, if there is none.

        Raises:
            MisconfiguredError: it cannot be begun.
        """
        if self._process is None:
            self._start()

    def close(self) -> None:
        """End the process."""
        process, self._process, self._unread = self._process, None, b""
        if self._place is not None:
            self._place.close()
            self._place = None
        if process is not None:
            process.kill()
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]  # a pipe
            process.stdout.close()  # type: ignore[union-attr]
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _run_some(self, values: Sequence[bytes]) -> Iterator[Outcome]:
        """Values that are sent together; where one ends the process, the others go to another one."""
        found: list[Outcome | None] = [None] * len(values)
        while left := [at for at, outcome in enumerate(found) if outcome is None]:
            try:
                told = self._answers([values[at] for at in left])
            except _DiedError as died:
                self.close()
                told = died.told
                if died.at >= len(told):  # what was done before it, and not told, is done again
                    at = left[died.at]
                    found[at] = self._once_more(values[at]) if died.why is None else Outcome(b"", died.why)
            for at, outcome in zip(left, told, strict=False):
                found[at] = outcome
        return (outcome for outcome in found if outcome is not None)

    def _once_more(self, value: bytes) -> Outcome:
        """One at which a process ended for a reason that nobody knows."""
        try:
            return self._answers([value])[0]
        except _DiedError as died:
            self.close()
            return Outcome(b"", died.why or "jq ended by itself, twice")

    def _answers(self, values: Sequence[bytes]) -> list[Outcome]:
        process = self._process or self._start()
        told: list[Outcome] = []
        frames = [_LENGTH.pack(len(values))]
        for value in values:
            frames += (_LENGTH.pack(len(value)), value)
        assert self._place is not None
        _LENGTH.pack_into(self._place, 0, 0)
        try:
            _write(process, b"".join(frames))
        except OSError:
            raise _DiedError(told, 0, None) from None
        while len(told) < len(values):
            if not self._read_more(process):
                raise _DiedError(told, _LENGTH.unpack_from(self._place)[0], self._why(process))
            told += self._complete()
        return told

    def _read_more(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether there is more to read."""
        out = process.stdout.fileno()  # type: ignore[union-attr]
        poll = select.poll()  # `select` knows no files beyond the first thousand
        poll.register(out, select.POLLIN)
        until = time.monotonic() + self._cpu_s * _WALL_FACTOR
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return False
            if poll.poll(left * 1000):
                data = os.read(out, _READ_BYTES)
                self._unread += data
                return bool(data)

    def _complete(self) -> Iterator[Outcome]:
        """The answers of which all has been read."""
        data, at = self._unread, 0
        while len(data) - at >= _ANSWER.size:
            failed, size = _ANSWER.unpack_from(data, at)
            end = at + _ANSWER.size + size
            if end > len(data):
                break
            text = data[at + _ANSWER.size : end]
            at = end
            yield Outcome(b"", text.decode("utf-8", "replace")) if failed else Outcome(text)
        self._unread = data[at:]

    def _why(self, process: subprocess.Popen[bytes]) -> str | None:
        """Why it is gone, where it is the value's doing."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(1)
            if status == -signal.SIGPROF:
                return f"it took more than {self._cpu_s:g} s"
            if status == -signal.SIGABRT:
                return f"it needed more than {MEMORY_BYTES >> 20} MiB of memory"
        return None

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        text = self._program.run.encode()
        with tempfile.TemporaryFile() as shared:
            shared.write(_LENGTH.pack(0))
            shared.flush()
            self._place = mmap.mmap(shared.fileno(), _LENGTH.size)
            numbers = (self._cpu_s, self._output_bytes, MEMORY_BYTES, shared.fileno())
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", _CHILD, *map(str, numbers)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    pass_fds=(shared.fileno(),),
                    bufsize=0,
                )
            except OSError as error:
                name = self._program.name
                raise MisconfiguredError(f"The process of the mapping {name} cannot be started: {error}.") from None
        self._process = process
        with contextlib.suppress(OSError):
            _write(process, _LENGTH.pack(len(text)) + text)
        if process.stdout.read(1) != READY:  # type: ignore[union-attr]
            status = process.wait()
            self.close()
            raise MisconfiguredError(
                f"jq cannot be run for the mapping {self._program.name}: its process ended with {status}."
            )
        return process


def _write(process: subprocess.Popen[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(process.stdin.fileno(), view) :]  # type: ignore[union-attr]


def _slices(values: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    begin = size = 0
    for at, value in enumerate(values):
        if at > begin and (size + len(value) > BYTES_AT_ONCE or at - begin == AT_ONCE):
            yield values[begin:at]
            begin, size = at, 0
        size += len(value)
    if begin < len(values):
        yield values[begin:]
