"""How fast the Pub/Sub stand-in takes and gives messages, and what that costs its process.

Prebuilt requests of 1,000 messages over loopback, then pull and acknowledge until nothing is left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grpc
from google.pubsub_v1 import types

MESSAGES = 200_000
BATCH = 1_000
BODY_BYTES = 200
PUBLISHERS = 2
BAR = 50_000
TOPIC, SUBSCRIPTION = "projects/bench/topics/points", "projects/bench/subscriptions/points"


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def publish_all(call: Callable[[str], Callable[..., object]]) -> None:
    """Keep a few requests on their way at once, as a publisher does."""
    messages = [
        {"data": os.urandom(BODY_BYTES), "attributes": {"event_time": "1700000000000", "project": "bench"}}
        for _ in range(BATCH)
    ]
    request = types.PublishRequest.pb()(topic=TOPIC, messages=messages).SerializeToString()
    publish = call("Publisher/Publish")
    under_way: list[grpc.Future] = []
    for _ in range(MESSAGES // BATCH):
        if len(under_way) == PUBLISHERS:
            under_way.pop(0).result()
        under_way.append(publish.future(request))
    for future in under_way:
        future.result()


def drain(call: Callable[[str], Callable[..., bytes]]) -> None:
    pull, ack = call("Subscriber/Pull"), call("Subscriber/Acknowledge")
    pulled, acknowledge = types.PullResponse.pb(), types.AcknowledgeRequest.pb()
    request = types.PullRequest.pb()(subscription=SUBSCRIPTION, max_messages=BATCH).SerializeToString()
    left, acks = MESSAGES, []
    following = pull.future(request)
    while left:
        received = pulled.FromString(following.result()).received_messages
        left -= len(received)
        if left:
            following = pull.future(request)
        ack_ids = [message.ack_id for message in received]
        acks.append(ack.future(acknowledge(subscription=SUBSCRIPTION, ack_ids=ack_ids).SerializeToString()))
    for future in acks:
        future.result()


def main() -> int:
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "tidemark.local.pubsub", "--port", "0", "--state", state]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            port = json.loads(server.stdout.readline())["port"]
            channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)])

            def call(method: str) -> Callable[..., object]:
                return channel.unary_unary(f"/google.pubsub.v1.{method}")

            call("Publisher/CreateTopic")(types.Topic.pb()(name=TOPIC).SerializeToString())
            subscription = types.Subscription.pb()(name=SUBSCRIPTION, topic=TOPIC, ack_deadline_seconds=600)
            call("Subscriber/CreateSubscription")(subscription.SerializeToString())
            marks = [(time.monotonic(), cpu_s(server.pid))]
            for step in (publish_all, drain):
                step(call)
                marks.append((time.monotonic(), cpu_s(server.pid)))
            channel.close()
        finally:
            server.terminate()
            server.wait()
    (t0, c0), (t1, c1), (t2, c2) = marks
    speeds = {"in_messages_s": MESSAGES / (t1 - t0), "out_messages_s": MESSAGES / (t2 - t1)}
    cpu = {"in_cpu_us": (c1 - c0) / MESSAGES * 1e6, "out_cpu_us": (c2 - c1) / MESSAGES * 1e6}
    bars = {name: {"value": round(value), "bar": BAR, "holds": value >= BAR} for name, value in speeds.items()}
    figures = {name: round(value, 2) for name, value in (speeds | cpu).items()}
    print(json.dumps({"bench": "pubsub", "figures": figures, "bars": bars}))
    return 0 if all(bar["holds"] for bar in bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
