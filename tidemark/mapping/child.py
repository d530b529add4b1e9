"""The process in which jq runs; `tidemark.mapping.runner` starts it, by its path and with an empty environment.

It reads frames from standard input, a length of 4 bytes (little endian) before each: the program's text; then, again and
again, a number of values and the values. For each value it writes a status byte, a length and the outputs, one a line, or
why there are none. Which value it is at stands in memory that it shares with its parent.

A value that takes more CPU than it may ends the process: jq has no bound of its own, and no signal handler of Python's runs
while it computes.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO

import jq
import msgspec

OK, FAILED = 0, 1
READY = b"\x02"
"""Written first."""
_LENGTH = struct.Struct("<I")
_ANSWER = struct.Struct("<BI")
_TEXT = msgspec.json.Encoder()
_SENTENCE_BYTES = 2000
_WRITTEN_BYTES = 64 << 10
"""Answers are written when they are so many, and after the last."""


def main() -> int:
    """Serve until the input ends.

    Arguments: CPU seconds and bytes of outputs that a value may have; bytes of memory more than now; the shared memory's file.
    """
    cpu_s, output_bytes, memory_bytes, shared = float(sys.argv[1]), *map(int, sys.argv[2:5])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to end
    source, out = sys.stdin.buffer, sys.stdout.fileno()
    program = jq.compile(_frame(source).decode())
    with mmap.mmap(shared, _LENGTH.size) as place:
        _bound_memory(memory_bytes)
        _write(out, READY)
        while head := source.read(_LENGTH.size):
            values = [_frame(source) for _ in range(_LENGTH.unpack(head)[0])]
            answers: list[bytes] = []
            size = 0
            for at, value in enumerate(values):
                _LENGTH.pack_into(place, 0, at)
                signal.setitimer(signal.ITIMER_PROF, cpu_s)
                status, text = _mapped(program, value, output_bytes)
                signal.setitimer(signal.ITIMER_PROF, 0)
                answers += (_ANSWER.pack(status, len(text)), text)
                size += len(text)
                if size > _WRITTEN_BYTES:
                    _write(out, b"".join(answers))
                    answers, size = [], 0
            _write(out, b"".join(answers))
    return 0


def _mapped(program: Any, value: bytes, output_bytes: int) -> tuple[int, bytes]:
    outputs, size = [], 0
    try:
        for output in program.input_text(value.decode("utf-8", "replace")):
            text = _TEXT.encode(output)
            size += len(text) + 1
            if size > output_bytes:
                return FAILED, b"its outputs have more than %d bytes" % output_bytes
            outputs.append(text)
    except (ValueError, RecursionError, MemoryError) as error:
        return FAILED, (str(error) or type(error).__name__).encode("utf-8", "replace")[:_SENTENCE_BYTES]
    return OK, b"\n".join(outputs)


def _bound_memory(more: int) -> None:
    pages = int(open("/proc/self/statm").read().split()[0]) if os.path.exists("/proc/self/statm") else 0  # noqa: PTH110, PTH123, SIM115
    if pages:
        most = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _frame(source: BinaryIO) -> bytes:
    return source.read(_LENGTH.unpack(source.read(_LENGTH.size))[0])


def _write(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


if __name__ == "__main__":
    sys.exit(main())
