"""Load on an HTTP server: as much as it takes, by wrk; or so many requests a second whether it answers or not."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import uvloop

_SCRIPT = """
local threads = 0
function setup(thread) thread:set("id", threads); threads = threads + 1 end
local n = 0
function request()
  n = n + 1
  return wrk.format("POST", %(path)s, {["Authorization"] = %(authorization)s, ["Content-Type"] = "application/json"}, body(n, id))
end
%(body)s
function done(summary, latency, requests)
  io.write(string.format('{"requests":%%d,"seconds":%%f,"bad":%%d,"p50_ms":%%f,"p99_ms":%%f}\\n',
    summary.requests, summary.duration / 1e6,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""
# another event time each, a minute's window for some thousand of them
ONE_POINT = """
function body(n, id)
  return string.format('{"source":"gateway-%%d","metric":"fps","event_time":%%d,"value":24.5}', n %% 1000, %d + 4 * n + id)
end
"""
FIXED = """
local bodies = {%s}
function body(n, id) return bodies[n %% #bodies + 1] end
"""


def batch(number: int, points: int, first_ms: int) -> bytes:
    """A body of so many points, ten metrics of one source."""
    made = [{"metric": f"m{k % 10}", "event_time": first_ms + k // 10 * 100, "value": k + 0.25} for k in range(points)]
    return json.dumps({"source": f"s{number}", "points": made}, separators=(",", ":")).encode()


def lua(text: bytes) -> str:
    """A text as Lua writes it."""
    return json.dumps(text.decode())


def wrk() -> str:
    """Where it is.

    Raises:
        SystemExit: it is not installed.
    """
    found = shutil.which("wrk")
    if found is None:
        raise SystemExit("wrk is not on the PATH: Debian's package is called so.")
    return found


def closed(url: str, path: str, body: str, *, token: str = "", connections: int, seconds: float) -> dict[str, float]:
    """As many requests as it answers, each connection sending its next one then."""
    script = _SCRIPT % {"path": json.dumps(path), "authorization": json.dumps(f"Bearer {token}"), "body": body}
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = [wrk(), "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", file.name, url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


class _Connection(asyncio.Protocol):
    """Sends one request at a time and tells when it is answered."""

    def __init__(self, free: Callable[[_Connection], None]) -> None:
        self._free = free
        self._transport: asyncio.Transport | None = None
        self._due = 0.0
        self.delays: list[float] = []
        self.bad = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, request: bytes, due: float) -> None:
        assert self._transport is not None
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.delays.append(time.monotonic() - self._due)
        self.bad += not data.startswith(b"HTTP/1.1 200 ")
        self._free(self)


def opened(
    port: int, request: Callable[[int], bytes], *, rate: float, seconds: float, connections: int
) -> dict[str, float]:
    """Requests at random moments, `rate` a second on average; delays are counted from when each was due."""

    async def run() -> dict[str, float]:
        loop = asyncio.get_running_loop()
        idle: list[_Connection] = []
        waiting: deque[tuple[bytes, float]] = deque()

        def free(connection: _Connection) -> None:
            if waiting:
                connection.send(*waiting.popleft())
            else:
                idle.append(connection)

        every = [
            (await loop.create_connection(lambda: _Connection(free), "127.0.0.1", port))[1] for _ in range(connections)
        ]
        idle += every
        chance, due, number = random.Random(1), time.monotonic() + 0.1, 0
        end = due + seconds
        while due < end:
            pause = due - time.monotonic()
            await asyncio.sleep(max(0.0, pause))
            now = time.monotonic()
            while due <= now and due < end:
                number += 1
                made = request(number), due
                if idle:
                    idle.pop().send(*made)
                else:
                    waiting.append(made)
                due += chance.expovariate(rate)
        until = time.monotonic() + 10
        while sum(len(one.delays) for one in every) < number and time.monotonic() < until:  # noqa: ASYNC110  # each connection has its own
            await asyncio.sleep(0.01)
        delays = sorted(delay for one in every for delay in one.delays)
        return {
            "requests": number,
            "unanswered": number - len(delays),
            "bad": sum(one.bad for one in every),
            "p50_ms": round(delays[len(delays) // 2] * 1000, 2),
            "p99_ms": round(delays[len(delays) * 99 // 100] * 1000, 2),
        }

    return uvloop.run(run())


def request(path: str, token: str, body: bytes) -> bytes:
    """A request's bytes."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def state() -> Path:
    """A directory that is left to the system."""
    return Path(tempfile.mkdtemp(prefix="tidemark-bench-"))
