"""Clients that nobody here wrote."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import zstandard

from tests.edge.conftest import point
from tests.edge.foreign import run, tool
from tests.edge.house import MB, House, housed

requests = pytest.importorskip("requests", reason="requests is not installed")
aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")
urllib3 = pytest.importorskip("urllib3", reason="urllib3 is not installed")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with housed(tmp_path_factory.mktemp("foreign"), client_timeout_s="2", access_log_share="0") as made:
        yield made


@pytest.fixture
def house(shared: House) -> Iterator[House]:
    yield shared
    shared.unharmed()


@pytest.fixture
def body(tmp_path: Path) -> Path:
    """40,000 points, one a line."""
    path = tmp_path / "points.jsonl"
    path.write_text("".join(json.dumps(point(value=number)) + "\n" for number in range(40_000)))
    return path


def url(house: House) -> str:
    return f"{house.running.url}/v1/points"


def curl(house: House, *more: str) -> tuple[list[int], str]:
    """The statuses of all answers, with 100, and the last body."""
    found = run(tool("curl"), "-sS", "-i", "-H", f"Authorization: Bearer {house.token}", *more, url(house))
    *heads, text = found.split("\n\n")
    return [int(head.split(" ")[1]) for head in heads], text


ACCEPTED = {"accepted": 40_000, "rejected": []}


def test_curl(house: House, body: Path, tmp_path: Path) -> None:
    assert curl(house, "-d", json.dumps(point())) == ([200], '{"accepted":1,"rejected":[]}\n')
    found, text = curl(house, "--data-binary", f"@{body}", "-H", "Expect: 100-continue")
    assert (found, json.loads(text)) == ([100, 200], ACCEPTED)
    found, text = curl(house, "-T", str(body), "-X", "POST", "-H", "Transfer-Encoding: chunked", "-H", "Expect:")
    assert (found, json.loads(text)) == ([200], ACCEPTED)
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(body.read_bytes()))
    found, text = curl(house, "--data-binary", f"@{packed}", "-H", "Content-Encoding: gzip")
    assert (found[-1], json.loads(text)) == (200, ACCEPTED)
    packed.write_bytes(zstandard.compress(body.read_bytes()))
    found, text = curl(house, "--data-binary", f"@{packed}", "-H", "Content-Encoding: zstd", "--http1.0")
    assert (found, json.loads(text)) == ([200], ACCEPTED)
    assert curl(house, "--http2", "-d", json.dumps(point()))[0] == [200]
    large = tmp_path / "large"
    large.write_bytes(b" " * (11 * MB))
    assert curl(house, "--data-binary", f"@{large}")[0] == [413]
    assert curl(house, "--data-binary", f"@{large}", "-H", "Expect:")[0] == [413]
    found = curl(house, "-T", str(large), "-X", "POST", "-H", "Transfer-Encoding: chunked")[0]
    assert found[-1] == 413


def test_curl_takes_the_same_connection_again(house: House) -> None:
    said = subprocess.run(
        [
            tool("curl"),
            "-sSv",
            "-H",
            f"Authorization: Bearer {house.token}",
            "-d",
            json.dumps(point()),
            *[url(house)] * 5,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert said.stdout.count('{"accepted":1') == 5
    assert said.stderr.count("Re-using existing connection") == 4


def test_requests(house: House, body: Path) -> None:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {house.token}"
        assert session.post(url(house), json=[point(), point()], timeout=20).json()["accepted"] == 2
        assert session.post(url(house), data=body.read_bytes(), timeout=20).json() == ACCEPTED
        with body.open("rb") as file:
            assert session.post(url(house), data=iter(file), timeout=20).json() == ACCEPTED  # a line a chunk
        packed = {"Content-Encoding": "gzip"}
        assert (
            session.post(url(house), data=gzip.compress(body.read_bytes()), headers=packed, timeout=20).json()
            == ACCEPTED
        )
        assert session.post(url(house), data=b" " * (11 * MB), timeout=20).status_code == 413
        assert session.post(url(house), json=point(), timeout=20).ok
        assert session.post(url(house), json=point(), auth=("any", house.token), timeout=20).ok
    assert requests.post(url(house), json=point(), timeout=20).status_code == 401


def test_urllib3_takes_the_same_connection_again(house: House) -> None:
    head = {"Authorization": f"Bearer {house.token}"}
    with urllib3.HTTPConnectionPool("127.0.0.1", house.running.port, maxsize=1, timeout=20) as pool:
        for _ in range(50):
            assert pool.request("POST", "/v1/points", body=json.dumps(point()), headers=head).status == 200
            assert pool.request("POST", "/v1/points", body=b"{", headers=head).status == 400
            assert pool.request("GET", "/healthz").status == 200
            assert pool.request("HEAD", "/readyz").status == 200
            assert pool.request("GET", "/nowhere").status == 404
        assert pool.num_connections == 1


async def _aiohttp(house: House, text: bytes) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, len(text), 1000):
            yield text[at : at + 1000]

    head = {"Authorization": f"Bearer {house.token}"}
    async with aiohttp.ClientSession(headers=head) as session:
        async with session.post(url(house), json=point()) as answer:
            assert await answer.json() == {"accepted": 1, "rejected": []}
        async with session.post(url(house), data=parts()) as answer:
            assert await answer.json() == ACCEPTED
        async with session.post(url(house), data=io.BytesIO(text), compress="gzip") as answer:
            assert await answer.json() == ACCEPTED
        async with session.post(url(house), data=io.BytesIO(text), expect100=True) as answer:
            assert await answer.json() == ACCEPTED


def test_aiohttp(house: House, body: Path) -> None:
    asyncio.run(_aiohttp(house, body.read_bytes()))


NODE = """
const [url, token] = process.argv.slice(2)
const headers = { authorization: `Bearer ${token}` }
const line = JSON.stringify({ source: "a", metric: "m", event_time: Date.now(), value: 1 }) + "\\n"
async function* lines() { for (let i = 0; i < 2000; i++) yield Buffer.from(line) }
const found = []
async function send(body, more = {}) {
  const answer = await fetch(url, { method: "POST", headers, body, ...more })
  found.push([answer.status, await answer.json()])
}
await send(line)
await send(line.repeat(5000))
await send(ReadableStream.from(lines()), { duplex: "half" })
await Promise.all(Array.from({ length: 50 }, () => send(line)))
console.log(JSON.stringify(found))
"""


def test_fetch_of_node(house: House, tmp_path: Path) -> None:
    node = tool("node")
    major = int(run(node, "--version").lstrip("v").partition(".")[0])
    if major < 20:
        pytest.skip(f"node {major} has no ReadableStream.from: 20 is needed")
    script = tmp_path / "send.mjs"
    script.write_text(NODE)
    found = json.loads(run(node, str(script), url(house), house.token))
    assert [(status, answer["accepted"]) for status, answer in found] == [
        (200, 1),
        (200, 5000),
        (200, 2000),
        *[(200, 1)] * 50,
    ]


JAVA = """
import java.net.URI;
import java.net.http.*;

class Send {
    public static void main(String[] a) throws Exception {
        var client = HttpClient.newHttpClient();
        for (int i = 0; i < 3; i++) {
            var request = HttpRequest.newBuilder(URI.create(a[0])).header("Authorization", "Bearer " + a[1])
                .POST(HttpRequest.BodyPublishers.ofString(a[2])).build();
            System.out.print(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode() + " ");
        }
    }
}
"""


def test_java_which_offers_http_2_with_its_first_request(house: House, tmp_path: Path) -> None:
    script = tmp_path / "Send.java"
    script.write_text(JAVA)
    assert run(tool("java"), str(script), url(house), house.token, json.dumps(point())) == "200 200 200 "


def test_wrk(house: House, tmp_path: Path) -> None:
    script = tmp_path / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.body = [[{json.dumps(point())}]]\nwrk.headers["Authorization"] = "Bearer {house.token}"\n'
    )
    found = run(tool("wrk"), "-t1", "-c16", "-d2s", "-s", str(script), url(house))
    rate = re.search(r"Requests/sec: +([0-9.]+)", found)
    assert rate is not None, found
    assert float(rate[1]) > 100
    assert "Non-2xx" not in found
    assert "Socket errors" not in found


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("-H", id="slow heads"),
        pytest.param("-B", id="slow bodies", marks=pytest.mark.long),
        pytest.param("-X", id="slow reading", marks=pytest.mark.long),
    ],
)
def test_slowhttptest(house: House, kind: str) -> None:
    flags = f"{kind} -c 200 -r 200 -i 1 -l 4 -p 2 -t POST -s 4096 -u {url(house)}".split()
    said = subprocess.run(
        [tool("slowhttptest"), *flags], capture_output=True, text=True, timeout=60, check=False
    ).stdout
    assert "service available:   YES" in re.sub(r"\x1b\[[0-9;]*m", "", said), said[-2000:]
