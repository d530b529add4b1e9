"""A planted password is found nowhere but where it was put."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import sqlalchemy

from tests.integration.points import Feed, Message, query
from tests.pipelines.dataflow import google
from tidemark.local.job import Job
from tidemark.local.stack import DATASET, SUBSCRIPTION, Stack

CANARY = "canary-7f3a1c"
ROOT = Path(__file__).parents[2]


def command_lines() -> str:
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has ended
    return "\n".join(lines)


def test_a_local_run_never_shows_it(environment: dict[str, str], stack: Stack, feed: Feed, tmp_path: Path) -> None:
    url = sqlalchemy.make_url(environment["TIDEMARK_DATABASE_URL"])
    owner = environment["TIDEMARK_DATABASE_URL"]
    query(owner, f"CREATE ROLE canary LOGIN SUPERUSER PASSWORD '{CANARY}'; SELECT 1")
    planted = url.set(username="canary", password=CANARY).render_as_string(hide_password=False)
    assert CANARY in planted
    job = Job({**environment, "TIDEMARK_DATABASE_URL": planted}, tmp_path / "ingest.log")
    job.wait_ready()
    feed.publish([(Message(data=data), []) for data in (b"no json", b"[]", b'{"project":"p"}')])
    until = time.monotonic() + 30
    while job.latest.get("dead_lettered", 0) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    seen = [command_lines().replace(f"PASSWORD '{CANARY}'", "")]
    stack.postgres.kill()
    feed.publish([(Message(data=b"no json either"), [])])
    time.sleep(3)  # it says that the database is away
    stack.postgres.start()
    job.drain()
    seen.append(json.dumps(job.drained()))
    seen.append((tmp_path / "ingest.log").read_text())
    assert "database" in seen[-1], "the outage was told"
    rows = query(owner, "SELECT * FROM dead_letters")
    assert len(rows) >= 3
    seen.append(str(rows))
    assert [text[:200] for text in seen if CANARY in text] == []


def test_commands_and_submissions_never_show_it(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    wrong = {
        "away": f"postgresql://u:{CANARY}@127.0.0.1:9/d",
        "unreadable": f"postgresql://u:{CANARY}@[::1/d",
        "a bad port": f"postgresql://u:{CANARY}@127.0.0.1:port/d",
        "another scheme": f"mysql://u:{CANARY}@127.0.0.1/d",
    }
    common = [f"--subscription={SUBSCRIPTION}", f"--rollup_dataset={DATASET}"]
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "PUBSUB_EMULATOR_HOST": "127.0.0.1:9",
        "BIGQUERY_EMULATOR_HOST": "http://127.0.0.1:9",
    }

    def run(module: str, *arguments: str, **more: str) -> str:
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(
            command, env={**environment, **more}, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode != 0
        return done.stdout + done.stderr

    seen = {}
    for what, url in wrong.items():
        secret.write_text(url)
        for name, given in (("file", {}), ("environment", {"TIDEMARK_DATABASE_URL": url})):
            where = () if given else (f"--database_secret=file:{secret}",)
            seen[f"preflight, {what}, {name}"] = run("tidemark", "preflight", *common, *where, **given)
            seen[f"verify, {what}, {name}"] = run("tidemark", "verify", common[1], *where, **given)
            seen[f"migrate, {what}, {name}"] = run("tidemark", "migrate", *where, **given)
    with google(tmp_path / "storage.log") as cloud:
        options = [*common, f"--database_secret=file:{secret}"]
        for what, flags in {"launch": [], "submission": ["--preflight=false"]}.items():
            done = cloud.launch(*options, *flags, environment=environment)
            seen[what] = done.stdout + done.stderr
            assert (done.returncode == 0) == (what == "submission"), seen[what]
        seen["job"] = json.dumps(cloud.posted)
        seen["staged"] = str(cloud.staged())
        assert len(cloud.posted) == 1
    seen["metadata"] = (ROOT / "templates" / "metadata.json").read_text()
    assert "database_url" not in seen["metadata"]
    assert [(what, text[-300:]) for what, text in seen.items() if CANARY in text] == []
    assert all("Traceback" not in text for text in seen.values())
