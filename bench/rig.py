"""What the benches share: CPU seconds by process, prepared publishing, the closing JSON line."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

# a child that is forked while gRPC's threads are at work dies in gRPC's handlers now and then, before it is what it shall be
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

import grpc
from google.pubsub_v1 import types

Message = types.PubsubMessage.pb()
Request = types.PublishRequest.pb()
Response = types.PublishResponse.pb()
_TICKS = os.sysconf("SC_CLK_TCK")


def processes(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            yield from processes(int(path.parent.name))


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time spent by running processes and by their ended children."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def resident_mb(pid: int) -> float:
    """Memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


class Publisher(threading.Thread):
    """Sends prepared requests on a schedule: second s of the plan goes out during second s of the run."""

    def __init__(self, address: str, plan: Sequence[Sequence[bytes]], start_at: float) -> None:
        super().__init__(daemon=True)
        self._plan, self._start_at = plan, start_at
        channel = grpc.insecure_channel(address)
        self.publish = channel.unary_unary(
            "/google.pubsub.v1.Publisher/Publish", request_serializer=None, response_deserializer=None
        )
        self.sent = 0
        self.behind_s = 0.0

    def run(self) -> None:
        for second, requests in enumerate(self._plan):
            for i, request in enumerate(requests):
                due = self._start_at + second + i / len(requests)
                pause = due - time.time()
                if pause > 0:
                    time.sleep(pause)
                self.behind_s = max(self.behind_s, -pause)
                self.publish(request)
                self.sent += 1


def request(topic: str, messages: Sequence[tuple[bytes, int]]) -> bytes:
    """A serialized PublishRequest of (body, earliest event time in ms)."""
    made = Request(topic=topic)
    for body, event_ms in messages:
        message = made.messages.add(data=body)
        message.attributes["event_time"] = str(event_ms)
    return bytes(made.SerializeToString())


def finish(bench: str, figures: dict[str, object], bars: dict[str, tuple[float, str, float]]) -> int:
    """Print the closing line; bars are (value, "<=" or ">=", bound). Returns the exit status."""
    judged = {
        name: {
            "value": value,
            "bar": f"{sense} {bound:g}",
            "holds": value >= bound if sense == ">=" else value <= bound,
        }
        for name, (value, sense, bound) in bars.items()
    }
    print(json.dumps({"bench": bench, "figures": figures, "bars": judged}), flush=True)
    return 0 if all(bar["holds"] for bar in judged.values()) else 1
