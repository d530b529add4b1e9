"""Every command line and snippet of the pages runs here, or is listed with the reason why it cannot."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pipelines.options import parse as parse_ingest
from tests.bus.standin import Bus
from tests.docs.test_names import PAGES
from tests.edge.conftest import Running
from tests.integration.points import query
from tests.waiting import eventually
from tidemark.cli import COMMANDS, parser
from tidemark.edge.tokens import line_of, new_token
from tidemark.errors import UsageError
from tidemark.local.stack import DATASET, SUBSCRIPTION, Stack
from tidemark.warehouse.clients import rest

ROOT = Path(__file__).parents[2]
GOOGLE = "needs a Google account"
CLUSTER = "needs a Kubernetes"
FLINK = "needs a Flink or a Kubernetes: scripts/flink-test does the like of it"
PICTURE = "a picture, a table or an example of a text"
ELSEWHERE = "run elsewhere: "
NOT_RUN = {
    ("README.md", "messages ─▶"): PICTURE,
    ("README.md", "scripts/demo"): ELSEWHERE + "tests/integration/test_machines.py with --long",
    ("README.md", "scripts/test"): ELSEWHERE + "it is what runs this",
    ("README.md", '{"project"'): ELSEWHERE + "tests/docs/test_sending.py has the same forms",
    ("docs/architecture.md", "pipelines ──▶"): PICTURE,
    ("docs/benchmarks.md", "seconds after"): PICTURE,
    ("docs/concepts.md", "written at"): PICTURE,
    ("README.md", ".venv/bin/tidemark local run"): ELSEWHERE + "tests/page",
    ("docs/page.md", ".venv/bin/tidemark local run"): ELSEWHERE + "tests/page",
    ("docs/operations/local.md", ".venv/bin/tidemark local run"): ELSEWHERE + "tests/page",
    ("docs/operations/backfill.md", "ERROR"): PICTURE,
    ("docs/operations/backfill.md", "python -m pipelines.backfill 'gs:"): GOOGLE,
    ("docs/operations/database.md", "cams: windows"): PICTURE,
    ("docs/operations/database.md", "psql …"): ELSEWHERE + "tests/store/test_roles.py",
    ("docs/operations/dataflow.md", "gcloud"): GOOGLE,
    ("docs/operations/dataflow.md", "project  "): GOOGLE,
    ("docs/operations/dataflow.md", "psql …"): ELSEWHERE + "tests/store/test_roles.py",
    ("docs/operations/dataflow.md", "printf"): GOOGLE,
    ("docs/operations/dataflow.md", "template ="): GOOGLE,
    ("docs/operations/edge.md", "tidemark token"): ELSEWHERE + "tests/edge/test_tokens.py and test_edge.py",
    ("docs/operations/edge.md", "kubectl"): CLUSTER,
    ("docs/operations/edge.md", "gcloud"): GOOGLE,
    ("docs/operations/devices.md", "tidemark edge"): ELSEWHERE + "tests/edge, with other ports",
    ("docs/operations/devices.md", "[[outputs.mqtt]]"): ELSEWHERE + "tests/edge/test_foreign_lines.py",
    ("docs/operations/devices.md", "const esp_mqtt"): "needs an ESP32",
    ("docs/operations/devices.md", "connection tidemark"): ELSEWHERE + "tests/edge/test_foreign_bridge.py",
    ("docs/operations/flink.md", "python -m pipelines.ingest --runner"): FLINK,
    ("docs/operations/flink.md", "kubectl"): FLINK,
    ("docs/operations/observability.md", "complete until"): PICTURE,
    ("docs/operations/query.md", "tidemark token"): ELSEWHERE + "tests/query",
    ("docs/operations/query.md", '{"project"'): PICTURE,
    ("docs/operations/query.md", "kubectl"): CLUSTER,
    ("docs/operations/query.md", "printf"): GOOGLE,
    ("docs/operations/runbook.md", "gcloud"): GOOGLE,
    ("docs/operations/runbook.md", "SELECT"): ELSEWHERE + "tests/store/test_roles.py, as tidemark_reader",
    ("docs/your-own-json.md", '{"gw"'): PICTURE,
    ("docs/your-own-json.md", "1: {"): PICTURE,
    ("docs/your-own-json.md", '{"body"'): PICTURE,
}
"""By page and the beginning of the snippet."""
NOT_RUN_LINES = {
    "scripts/setup": ELSEWHERE + "it made the environment that this runs in",
    "scripts/check": ELSEWHERE + "scripts/test runs it",
    "scripts/test": ELSEWHERE + "it is what runs this",
    "scripts/flink-test": FLINK,
    ".venv/bin/python -m pytest tests/wire": ELSEWHERE + "it is part of what runs this",
}
SENDS = re.compile(r"^(curl|mosquitto_pub|\(echo|echo) |import paho", re.MULTILINE)
UNTIL_TOLD = re.compile(r"pipelines\.ingest|tidemark edge +#")
REPLACED = {
    "…": "2026-01-01T00:00:00Z",
    "[--dry_run]": "--dry_run",
    "17 3 * * *": "",
    "projects/PROJECT/subscriptions/tidemark-ingest": SUBSCRIPTION,
    "projects/PROJECT/secrets/tidemark-database-url/versions/latest": "file:url",
    "file:/etc/tidemark/owner-url": "file:url",
    "--rollup_dataset=PROJECT.tidemark": f"--rollup_dataset={DATASET}",
    "gcp_project.dataset": DATASET,
}
"""Placeholders, by what stands for them here."""


class Snippet(NamedTuple):
    page: str
    text: str


def snippets(page: Path) -> Iterator[Snippet]:
    """Its indented blocks."""
    block: list[str] = []
    before = ""
    for line in [*page.read_text().splitlines(), "end"]:
        inside = line.startswith("    ") and (block or not before.strip())
        if inside or (block and not line.strip()):
            block.append(line)
        elif block:
            yield Snippet(str(page.relative_to(ROOT)), _dedented(block))
            block = []
        before = line


def _dedented(lines: list[str]) -> str:
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[margin:] for line in lines).strip()


ALL = [snippet for page in PAGES for snippet in snippets(page)]


def reason(snippet: Snippet) -> str | None:
    """Why it is not run here."""
    return next(
        (why for (page, start), why in NOT_RUN.items() if snippet.page == page and snippet.text.startswith(start)), None
    )


def test_there_is_no_other_kind_of_snippet() -> None:
    assert [str(page) for page in PAGES if "```" in page.read_text()] == []
    assert len(ALL) > 25


def test_what_is_listed_as_not_run_is_there() -> None:
    unused = [key for key in NOT_RUN if not any(s.page == key[0] and s.text.startswith(key[1]) for s in ALL)]
    assert unused == []


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("docs"))
    made.up()
    yield made
    made.down(purge=True)


@pytest.fixture
def directory(stack: Stack, tmp_path: Path) -> Path:
    """As a checkout that was set up, with the secret that a page speaks of."""
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    (tmp_path / "url").write_text(stack.environment()["TIDEMARK_DATABASE_URL"])
    return tmp_path


RUN = [snippet for snippet in ALL if reason(snippet) is None]


@pytest.mark.parametrize("snippet", RUN, ids=[f"{s.page}: {s.text.split(chr(10))[0][:40]}" for s in RUN])
def test_a_snippet_runs(snippet: Snippet, stack: Stack, directory: Path) -> None:
    text = snippet.text
    for placeholder, value in REPLACED.items():
        text = text.replace(placeholder, value)
    environment = stack.environment()
    if text.startswith("SELECT") and "`" in text:
        client = rest(DATASET, environment["BIGQUERY_EMULATOR_HOST"])
        list(client.query_and_wait(text))
    elif text.startswith("SELECT"):
        query(environment["TIDEMARK_DATABASE_URL"], text)
    elif "/v1/query" in text and text.startswith("curl "):
        _asked(text, directory, environment)
    elif SENDS.search(text):
        _sent(text, directory)
    elif text.startswith("import "):
        _run([sys.executable, "-c", text], directory, environment)
    else:
        # what runs until it is told to stop is told so; a stack of its own where the snippet starts one
        lines = [line for line in text.splitlines() if not any(line.startswith(known) for known in NOT_RUN_LINES)]
        script = "\n".join(
            f"timeout --preserve-status --signal=INT 5 {line}" if UNTIL_TOLD.search(line) else line for line in lines
        )
        own = "local up" in text
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        given = {"PATH": path, "TIDEMARK_HTTP_PORT": "0"}
        try:
            _run(["bash", "-ec", script], directory, given if own else environment | given)
        finally:
            if own:
                Stack(directory / ".tidemark").down(purge=True)


def _sent(text: str, directory: Path) -> None:
    """Run what sends points to an edge; its page names the usual ports, and the edge has others."""
    tool = re.search(r"\b(curl|mosquitto_pub|ncat|nc)\b", text)
    if tool is not None and shutil.which(tool[1]) is None:
        pytest.skip(f"{tool[1]} is not here")
    (directory / "tokens").write_text(line_of(token := new_token(), "cams", ["write"]) + "\n")
    (directory / "points.jsonl").write_text('{"source":"a","metric":"m","event_time":1769860800000,"value":1}\n')
    bus = Bus(directory / "pubsub")
    edge = Running(bus.address, directory / "tokens", "--mqtt_port=0", "--tcp_port=0", "--udp_ports=0=cams")
    (mqtt,), (tcp,), (udp,) = (edge.device_ports[kind] for kind in ("mqtt", "tcp", "udp"))
    for usual, port in (
        (":8080", f":{edge.port}"),
        (" 8094", f" {tcp}"),
        (" 8095", f" {udp}"),
        ("mosquitto_pub", f"mosquitto_pub -p {mqtt}"),
    ):
        text = text.replace(usual, port)
    command = [sys.executable, "-c"] if text.startswith("import ") else ["bash", "-ec"]
    try:
        _run([*command, text], directory, {"TOKEN": token, "TIDEMARK_TOKEN": token, "MQTT_PORT": str(mqtt)})
        eventually(lambda: edge.metric("points_accepted_total") == 1)
    finally:
        assert edge.stop()[0] == 0
        bus.server.stop()


def _asked(text: str, directory: Path, environment: dict[str, str]) -> None:
    """Run what asks the query service."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not here")
    url = environment["TIDEMARK_DATABASE_URL"]
    query(
        url,
        "INSERT INTO series (project, source, metric) VALUES ('cams', 'gateway-7', 'fps')"
        " ON CONFLICT (project, source, metric) DO UPDATE SET metric = excluded.metric RETURNING 1",
    )
    (directory / "tokens").write_text(line_of(token := new_token(), "cams", ["read"]) + "\n")
    command = ["serve", f"--database_url={url}", f"--tokens=file:{directory / 'tokens'}", "--http_port=0"]
    with subprocess.Popen([sys.executable, "-m", "tidemark", *command], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())["url"].rpartition(":")[2]
        try:
            said = _run(["bash", "-ec", text.replace("8090", port)], directory, {"TOKEN": token})
            assert json.loads(said)["series"][0]["source"] == "gateway-7", said
        finally:
            server.terminate()
    assert server.returncode == 0


def _run(command: list[str], directory: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def lines(program: str) -> list[tuple[str, str]]:
    """Command lines of a program that stand inside sentences and tables, by their page."""
    wanted = re.compile(r"`((?:\.venv/bin/)?(?:python -m )?" + program + r"[^`\n]*)`")
    return [(str(page.relative_to(ROOT)), text) for page in PAGES for text in wanted.findall(page.read_text())]


def arguments(text: str) -> list[str]:
    """Of a command line, with something for each placeholder."""
    text = re.sub(r"[\[\]]", "", text.replace("\\|", "|")).split("|")[0].split("&&")[0]
    return shlex.split(text.replace("…", "2026-01-01T00:00:00Z"), comments=True)


def test_commands_inside_sentences_have_the_options_that_they_name(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for page, text in lines("tidemark "):
        words = arguments(text.partition("tidemark ")[2])
        if words[0] not in COMMANDS:
            wrong.append((page, text))
            continue
        known = _options(words)
        given = {word.split("=")[0] for word in words if word.startswith("--") and word != "--"}
        if given - known:
            wrong.append((page, text))
    assert wrong == []
    assert len(lines("tidemark ")) > 40


def _options(words: list[str]) -> set[str]:
    actions = parser([words[0]])._subparsers._group_actions[0].choices[words[0]]  # type: ignore[union-attr]
    nested = [a for a in actions._actions if getattr(a, "choices", None) and isinstance(a.choices, dict)]
    if nested and len(words) > 1 and words[1] in nested[0].choices:
        actions = nested[0].choices[words[1]]  # type: ignore[index, call-overload]
    return {option for action in actions._actions for option in action.option_strings}


def test_options_of_ingest_inside_sentences_are_known() -> None:
    wrong = []
    for page, text in lines("pipelines.ingest"):
        given = [word for word in arguments(text) if word.startswith("--")]
        try:
            parse_ingest(
                [
                    "--subscription=projects/p/subscriptions/s",
                    "--rollup_dataset=p1234567.d",
                    "--database_secret=file:/x",
                    *given,
                ]
                if not any("runner" in word for word in given)
                else []
            )
        except UsageError as error:
            if "is not an option" in str(error):
                wrong.append((page, text, str(error)))
    assert wrong == []


def test_benches_and_scripts_inside_sentences_are_there_with_their_options() -> None:
    wrong = []
    for page in PAGES:
        for text in re.findall(r"`((?:python )?bench/[^`\n]*|scripts/[^`\n]*)`", page.read_text()):
            words = shlex.split(text)
            file = next(word for word in words if "/" in word)
            source = (ROOT / file).read_text() if (ROOT / file).is_file() else ""
            if file == "scripts/demo":
                source = (ROOT / "tidemark" / "local" / "demo.py").read_text()
            if file == "scripts/test":
                source = (ROOT / "tests" / "conftest.py").read_text()
            if file in ("bench/", "scripts/"):
                continue
            options = [word.split("=")[0] for word in words if word.startswith("--")]
            if not source or any(f'"{option}"' not in source for option in options):
                wrong.append((str(page.relative_to(ROOT)), text))
    assert wrong == []
