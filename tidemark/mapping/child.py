"""The process in which jq runs; `tidemark.mapping.runner` starts it, by its path and with an empty environment.

It reads frames from standard input, a length of 4 bytes (little endian) before each: the program's text; then, again and
again, a number of values and the values. For each value it writes a status byte, a length and the outputs, one a line, or
why there are none; at once, so that it is known which value was its last.

A value that takes more CPU than it may ends the process: jq has no bound of its own, and no signal handler of Python's runs
while it computes.
"""

from __future__ import annotations

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


def main() -> int:
    """Serve until the input ends. Arguments: CPU seconds and output bytes a value may have, and bytes of memory more than now."""
    cpu_s, output_bytes, memory_bytes = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to end
    source, out = sys.stdin.buffer, sys.stdout.fileno()
    program = jq.compile(_frame(source).decode())
    _bound_memory(memory_bytes)
    _write(out, READY)
    while True:
        head = source.read(_LENGTH.size)
        if not head:
            return 0
        values = [_frame(source) for _ in range(_LENGTH.unpack(head)[0])]
        for value in values:
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            status, text = _mapped(program, value, output_bytes)
            signal.setitimer(signal.ITIMER_PROF, 0)
            _write(out, _ANSWER.pack(status, len(text)) + text)


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
