"""HTTPS, and pages of browsers."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.certificates import Authority, pem
from tests.edge.conftest import point
from tests.edge.house import House, housed, rest, statuses
from tests.waiting import eventually

TIMEOUT_S = 2.0


class Kept:
    """A directory with an authority's certificates."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority("ours")
        (directory / "ca.pem").write_bytes(pem(self.authority.certificate))
        self.issue("server")
        self.issue("client")

    def issue(self, name: str) -> None:
        self.authority.issue(name, self.directory / f"{name}.pem", self.directory / f"{name}.key")

    def flags(self) -> dict[str, str]:
        return {
            "tls_certificate": str(self.directory / "server.pem"),
            "tls_key": str(self.directory / "server.key"),
            "client_timeout_s": str(TIMEOUT_S),
        }

    def client(self, name: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
        if name is not None:
            context.load_cert_chain(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        return context


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def shared(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with housed(tmp_path_factory.mktemp("tls"), **kept.flags()) as made:
        yield made


@pytest.fixture
def house(shared: House, kept: Kept) -> Iterator[House]:
    yield shared
    eventually(lambda: shared.running.metric("inflight_bytes") == 0)
    assert statuses(_exchange(shared, kept.client(), shared.request(None, "Connection: close"))) == [200]


def _connect(house: House, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(house.connect(), server_hostname="localhost")


def _exchange(house: House, context: ssl.SSLContext, request: bytes) -> bytes:
    with _connect(house, context) as connection:
        connection.sendall(request)
        return rest(connection)


def _served(house: House, context: ssl.SSLContext) -> bytes:
    """The certificate that a new connection is shown."""
    with _connect(house, context) as connection:
        found = connection.getpeercert(binary_form=True)
    assert found
    return found


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_these_versions_are_spoken(house: House, kept: Kept, version: ssl.TLSVersion) -> None:
    context = kept.client()
    context.minimum_version = context.maximum_version = version
    assert house.running.url.startswith("https://")
    row = house.request() * 20 + house.request(b" " * 1_000_000 + json.dumps(point()).encode(), "Connection: close")
    assert statuses(_exchange(house, context, row)) == [200] * 21


def test_an_older_version_is_not(house: House, kept: Kept) -> None:
    context = kept.client()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError), _connect(house, context):
        pass


@pytest.mark.parametrize(
    "data",
    [b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x40\x00" + bytes(16384), b"\x80" * 1000, b""],
    ids=["HTTP", "a hello of zeros", "anything", "nothing"],
)
def test_what_is_no_tls_is_closed(house: House, data: bytes) -> None:
    began = time.monotonic()
    assert b"HTTP" not in house.exchange(data)
    assert time.monotonic() - began < TIMEOUT_S + 2


def test_a_slow_handshake_is_closed(house: House) -> None:
    began = time.monotonic()
    connections = [house.connect() for _ in range(50)]
    for connection in connections:
        connection.sendall(b"\x16\x03\x01")
    for connection in connections:
        rest(connection)
        connection.close()
    assert time.monotonic() - began < TIMEOUT_S + 2


def test_deadlines_and_bounds_are_those_of_plain_http(house: House, kept: Kept) -> None:
    context = kept.client()
    for first, status in (
        (b"GET / HTTP/1.1\r\n", 408),
        (house.head("Content-Length: 10") + b"{", 408),
        (house.head("Content-Length: 100000000"), 413),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, 431),
    ):
        began = time.monotonic()
        assert statuses(_exchange(house, context, first)) == [status]
        assert time.monotonic() - began < TIMEOUT_S + 2
    with _connect(house, context) as connection:
        connection.sendall(house.head("Content-Length: 10") + b"{")
        eventually(lambda: house.running.metric("inflight_bytes") > 0)
    eventually(lambda: house.running.metric("inflight_bytes") == 0)


def test_a_client_that_goes_without_a_word_leaves_nothing(house: House, kept: Kept) -> None:
    for end in range(0, 400, 7):
        connection = _connect(house, kept.client())
        connection.sendall(house.request()[:end])
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    eventually(lambda: house.running.metric("connections") == 0)


def test_a_client_needs_a_certificate_where_one_is_asked_for(kept: Kept, tmp_path: Path) -> None:
    Authority("other").issue("other", kept.directory / "other.pem", kept.directory / "other.key")
    with housed(tmp_path, **kept.flags(), tls_client_ca=str(kept.directory / "ca.pem")) as house:
        request = house.request(None, "Connection: close")
        assert statuses(_exchange(house, kept.client("client"), request)) == [200]
        for name in (None, "other"):
            answered = b""
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                answered = _exchange(house, kept.client(name), request)
            assert answered == b""
        request = request.replace(house.token.encode(), b"tm_nobody")
        assert statuses(_exchange(house, kept.client("client"), request)) == [401]


def test_a_certificate_is_read_again_and_a_broken_one_is_not_used(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    with housed(tmp_path, **kept.flags()) as house:
        context = kept.client()
        old = http.client.HTTPSConnection("localhost", house.running.port, context=context, timeout=20)

        def asks() -> int:
            old.request("POST", "/v1/points", json.dumps(point()), {"Authorization": f"Bearer {house.token}"})
            answer = old.getresponse()
            answer.read()
            return answer.status

        assert asks() == 200
        first = _served(house, context)
        port = old.sock.getsockname()
        kept.issue("server")
        house.running.process.send_signal(signal.SIGHUP)
        eventually(lambda: _served(house, context) != first)
        second = _served(house, context)
        assert asks() == 200
        assert old.sock.getsockname() == port
        certificate, key = kept.directory / "server.pem", kept.directory / "server.key"
        good = certificate.read_bytes(), key.read_bytes()
        locked = serialization.load_pem_private_key(good[1], None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
        kept.issue("client")
        another = (kept.directory / "client.pem").read_bytes()
        for broken in (
            (another, good[1]),
            (good[0][:100], good[1]),
            (b"", b""),
            (good[0], b"no key"),
            (good[0], locked),
        ):
            certificate.write_bytes(broken[0])
            key.write_bytes(broken[1])
            house.running.process.send_signal(signal.SIGHUP)
            # signals are taken in order with everything else, so what is answered after it was answered with it
            for _ in range(5):
                assert _served(house, context) == second
        assert asks() == 200
        certificate.write_bytes(good[0])
        key.unlink()
        house.running.process.send_signal(signal.SIGHUP)
        assert _served(house, context) == second
        old.close()
        logged = house.stopped()
    assert "The certificate cannot be read again, and the one in use stays" in logged


# pages of browsers

ORIGIN = "https://app.example.com"


def _headers(found: bytes) -> dict[str, str]:
    lines = found.split(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture(scope="module", params=[None, f"{ORIGIN},http://localhost:3000", "*"], ids=["none", "two", "any"])
def pages(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[House, str | None]]:
    flags = {} if request.param is None else {"cors_origins": request.param}
    with housed(tmp_path_factory.mktemp("cors"), **flags) as made:
        yield made, request.param


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3000", "https://evil.example", f"{ORIGIN}.evil", "null"])
def test_pages_of_these_origins_may_send_and_see_their_answers(pages: tuple[House, str | None], origin: str) -> None:
    house, allowed = pages
    may = allowed == "*" or origin in (allowed or "").split(",")
    close = ("Connection: close", f"Origin: {origin}")
    asked = house.exchange(
        f"OPTIONS /v1/points HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\nConnection: close\r\n"
        "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n\r\n".encode()
    )
    unknown = house.request(None, *close).replace(house.token.encode(), b"tm_nobody")
    answers = [
        (house.exchange(house.request(None, *close)), 200),
        (house.exchange(house.request(b"{", *close)), 400),
        (house.exchange(unknown, half_close=True), 401),
        (house.exchange(house.head("Content-Length: 99999999", *close)), 413),
        (house.exchange(house.head("Content-Type: image/png", "Content-Length: 1", *close)), 415),
        (house.exchange(house.head(*close, path="/nowhere")), 404),
    ]
    for found, status in [(asked, 204), *answers]:
        assert statuses(found) == [status]
        headers = _headers(found)
        assert headers.get("access-control-allow-origin") == (("*" if allowed == "*" else origin) if may else None)
        assert "access-control-allow-credentials" not in headers
    headers = _headers(asked)
    assert ("authorization" in headers.get("access-control-allow-headers", "")) == may
    assert (headers.get("access-control-allow-methods") == "POST") == may
    assert ("retry-after" in _headers(answers[0][0]).get("access-control-expose-headers", "")) == may
