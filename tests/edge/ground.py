"""Senders that nobody here wrote, as processes, and what befalls them: outages of the bus, the edge and the connection."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.edge.conftest import Bus, Running
from tests.edge.foreign import Arrived, node_modules
from tidemark.edge.tokens import line_of, new_token


class Ground:
    """A bus for many tests, and what has come to it."""

    def __init__(self, directory: Path) -> None:
        self.bus, self.token, self.tokens = Bus(directory / "pubsub"), new_token(), directory / "tokens"
        self.tokens.write_text(line_of(self.token, "cams", ["write"]) + "\n")
        self.arrived = Arrived(self.bus)
        self.started: list[Running] = []

    def edge(self, *flags: str) -> Running:
        self.started.append(Running(self.bus.address, self.tokens, *flags))
        return self.started[-1]

    def signal(self, number: int) -> None:
        """To the bus."""
        process = self.bus.server.process()
        if process is not None:
            process.send(number)

    def clear(self) -> None:
        """End the edges, and let the bus go on."""
        self.signal(signal.SIGCONT)
        self.bus.server.start()
        for running in self.started:
            running.process.kill()
            running.process.communicate()
        self.started.clear()


@contextlib.contextmanager
def grounded(directory: Path) -> Iterator[Ground]:
    """One for many tests."""
    made = Ground(directory)
    try:
        yield made
    finally:
        made.clear()
        made.bus.server.stop()
        made.arrived.close()


Cuts = Callable[[bytes], int | None]
"""Asked for each packet of client and edge: None, or how many bytes of it are handed on before the connection is cut."""


class Proxy:
    """Between one client and the edge: looks at the packets of both, and may cut the connection at one of them."""

    def __init__(self, port: int, cuts: Cuts | None = None) -> None:
        """Listen.

        Args:
            port: The edge's.
            cuts: Of the first connection.
        """
        self._to, self._cuts = port, cuts or (lambda _packet: None)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = self._server.getsockname()[1]
        self.connections = self.cut_connections = self.sent_again = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut what is connected now."""
        for one in self._open:
            _end(one)

    def close(self) -> None:
        _end(self._server)
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                try:
                    edge = socket.create_connection(("127.0.0.1", self._to))
                except OSError:
                    _end(client)
                    continue
                self.connections += 1
                self._open += [client, edge]
                first = self.connections == 1
                for source, sink, answers in ((client, edge, False), (edge, client, True)):
                    threading.Thread(target=self._pump, args=(source, sink, answers, first), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool, first: bool) -> None:
        rest = bytearray()
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                rest += data
                while packet := _taken(rest):
                    self.sent_again += not answers and packet[0] & 0xF8 == 0x38
                    left = self._cuts(packet) if first else None
                    sink.sendall(packet[:left])
                    if left is not None:
                        self.cut_connections += 1
                        rest.clear()
                        _end(source)
                        break
        _end(source)
        _end(sink)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def _taken(rest: bytearray) -> bytes:
    """The first packet out of what has come; nothing where it is not whole."""
    length = 0
    for place in range(1, len(rest)):
        length |= (rest[place] & 0x7F) << 7 * (place - 1)
        if rest[place] < 0x80:
            end = place + 1 + length
            if len(rest) < end:
                return b""
            packet = bytes(rest[:end])
            del rest[:end]
            return packet
    return b""


@dataclass(frozen=True)
class Client:
    """One that connects again and sends again by itself.

    Attributes:
        port: Where it connects.
        version: Of MQTT: 4 is 3.1.1.
        clean: It wants a new session.
        name: Its client id.
        lines: What it sends.
    """

    port: int
    version: int
    clean: bool
    name: str
    lines: list[str]


def missing(script: str) -> str | None:
    """What a script needs and is not installed."""
    if script.endswith(".js"):
        return None if node_modules() else "MQTT.js (with NODE_PATH, where it is elsewhere)"
    package = "paho" if "paho" in script else "gmqtt"
    return None if importlib.util.find_spec(package) else package


class Senders:
    """A process with such clients, which ends well once all that they send is acknowledged."""

    def __init__(self, script: str, clients: list[Client], directory: Path, token: str) -> None:
        program, given, self._output = directory / script, directory / f"{script}.json", directory / f"{script}.output"
        program.write_text(SCRIPTS[script])
        given.write_text(json.dumps([asdict(client) for client in clients]))
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                ["node" if script.endswith(".js") else sys.executable, program, token, given],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "NODE_PATH": node_modules() or ""},
            )

    def told(self, what: str) -> int:
        """How many of the lines that it says begin so."""
        return sum(line.startswith(what) for line in self._output.read_text().splitlines())

    def ended(self) -> None:
        """It ends well, and nothing was refused."""
        status = self.process.wait(30)
        assert (status, self.told("failed")) == (0, 0), self._output.read_text()[-3000:]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


SCRIPTS = {
    "with_paho.py": """
import json, sys, time
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

token, clients = sys.argv[1], json.load(open(sys.argv[2]))
lasting = Properties(PacketTypes.CONNECT)
lasting.SessionExpiryInterval = 600
told = []


def on_publish(client, data, number, code, properties):
    told.append(number)
    print("failed" if code.is_failure else "acknowledged", flush=True)


def begin(version, clean, name, port, lines):
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, name, protocol=version, clean_session=clean if version == 4 else None
    )
    client.username_pw_set("cams", token)
    client.reconnect_delay_set(1, 1)
    client.max_inflight_messages_set(100)
    client.on_publish = on_publish
    client.connect("127.0.0.1", port, **({"clean_start": clean, "properties": lasting} if version == 5 else {}))
    client.loop_start()
    for at, line in enumerate(lines):
        client.publish("tidemark/cams", line, qos=1 + at % 2)  # sent later where it is not connected, though it says no


for client in clients:
    begin(**client)
while len(told) < sum(len(client["lines"]) for client in clients):
    time.sleep(0.01)
""",
    "with_gmqtt.py": """
import asyncio, json, sys
import gmqtt

token, clients = sys.argv[1], json.load(open(sys.argv[2]))


async def send(version, clean, name, port, lines):
    client = gmqtt.Client(name, clean_session=clean, session_expiry_interval=600)
    client.set_auth_credentials("cams", token)
    client.set_config({"reconnect_delay": 0.2, "reconnect_retries": -1})
    await client.connect("127.0.0.1", port, version=version)
    for at, line in enumerate(lines):
        client.publish("tidemark/cams", line, qos=1 + at % 2)
    await asyncio.wait_for(client._persistent_storage.wait_empty(), 60)
    print("acknowledged")
    await client.disconnect()


async def main():
    await asyncio.gather(*(send(**client) for client in clients))


asyncio.run(main())
""",
    "with_mqtt.js": """
const [token, path] = process.argv.slice(2)
const clients = JSON.parse(require("fs").readFileSync(path, "utf8"))
for (const { port, version, clean, name, lines } of clients) {
  const client = require("mqtt").connect({
    host: "127.0.0.1", port, username: "cams", password: token, clientId: name, protocolVersion: version, clean,
    reconnectPeriod: 200, properties: { sessionExpiryInterval: 600 },
  })
  client.on("error", (error) => console.log("error", error.message))
  const send = (line, at) => client.publishAsync("tidemark/cams", line, { qos: 1 + at % 2 }).then(
    () => console.log("acknowledged"), (error) => console.log("failed", error.message))
  // what is published before it is connected goes out one by one
  client.once("connect", () => Promise.all(lines.map(send)).then(() => client.endAsync()))
}
""",
}
