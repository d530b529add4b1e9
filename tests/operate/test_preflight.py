"""`tidemark preflight` finds what is wrong before a job does, on real servers, and says what to do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pg8000.native
import pytest
import sqlalchemy
from google.cloud import bigquery
from google.pubsub_v1 import types

from tests.waiting import eventually
from tidemark.bus import preflight as bus
from tidemark.findings import Finding, failed, text
from tidemark.local.stack import DATASET, GCP_PROJECT, SUBSCRIPTION, TOPIC, Stack
from tidemark.operate.preflight import Fleet, preflight
from tidemark.settings import INGEST, read
from tidemark.store.connection import make_engine
from tidemark.store.migrate import migrate
from tidemark.warehouse.clients import rest
from tidemark.warehouse.tables import SCHEMA, ensure

LONGEST_S = 10.0


@dataclass
class Site:
    """The servers, and the settings that lead to them."""

    environment: dict[str, str]
    stack: Stack
    more: dict[str, str] = field(default_factory=dict)
    fleet: Fleet = field(default_factory=lambda: Fleet(2, 2))
    region: str | None = "us-central1"
    sample: int = 0

    def look(self) -> list[Finding]:
        values = read(INGEST, self.more, self.environment)
        began = time.monotonic()
        found = preflight(values, self.fleet, self.region, self.sample)
        assert time.monotonic() - began < LONGEST_S
        return found

    def sql(self, *statements: str, database: str | None = None) -> None:
        url = sqlalchemy.make_url(self.environment["TIDEMARK_DATABASE_URL"])
        connection = pg8000.native.Connection(
            url.username, host=url.host, port=url.port, database=database or url.database, password=url.password
        )
        try:
            for statement in statements:
                connection.run(statement)
        finally:
            connection.close()

    def url(self, **changes: object) -> str:
        url = sqlalchemy.make_url(self.environment["TIDEMARK_DATABASE_URL"])
        return url.set(**changes).render_as_string(hide_password=False)  # type: ignore[arg-type]

    def pubsub(self, service: str, method: str, request: object) -> None:
        with grpc.insecure_channel(self.environment["PUBSUB_EMULATOR_HOST"]) as channel:
            call = channel.unary_unary(
                f"/google.pubsub.v1.{service}/{method}", type(request).SerializeToString, lambda body: body
            )
            call(request, timeout=10)

    def subscribe(self, name: str, **fields: object) -> str:
        full = f"projects/{GCP_PROJECT}/subscriptions/{name}"
        given = {"topic": TOPIC, "ack_deadline_seconds": 60, **fields}
        self.pubsub("Subscriber", "CreateSubscription", types.Subscription.pb(types.Subscription(name=full, **given)))
        return full


@pytest.fixture
def site(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Site:
    environment = stack.environment()
    for name in ("PUBSUB_EMULATOR_HOST", "BIGQUERY_EMULATOR_HOST"):
        monkeypatch.setenv(name, environment[name])
    return Site(environment, stack)


def test_a_site_as_it_must_be_passes_on_one_screen(site: Site) -> None:
    found = site.look()
    assert not failed(found), text(found)
    assert [f.subject for f in found if f.level == "warn" and f.subject != "TimescaleDB"] == []
    assert len(text(found).splitlines()) <= 24


Fault = Callable[[Site, pytest.MonkeyPatch], object]


@contextmanager
def other_dataset(site: Site, name: str) -> Iterator[tuple[bigquery.Client, str]]:
    full = f"{GCP_PROJECT}.{name}"
    client = rest(full)
    client.delete_dataset(full, delete_contents=True, not_found_ok=True)
    site.more["rollup_dataset"] = full
    yield client, full


def no_subscription(site: Site, _: pytest.MonkeyPatch) -> None:
    site.more["subscription"] = f"projects/{GCP_PROJECT}/subscriptions/none"


def no_topic(site: Site, _: pytest.MonkeyPatch) -> None:
    topic = f"projects/{GCP_PROJECT}/topics/gone"
    site.pubsub("Publisher", "CreateTopic", types.Topic.pb(types.Topic(name=topic)))
    site.more["subscription"] = site.subscribe("of-a-deleted-topic", topic=topic)
    site.pubsub("Publisher", "DeleteTopic", types.DeleteTopicRequest.pb()(topic=topic))


def short_deadline(site: Site, _: pytest.MonkeyPatch) -> None:
    site.more["subscription"] = site.subscribe("short-deadline", ack_deadline_seconds=10)


def short_retention(site: Site, _: pytest.MonkeyPatch) -> None:
    site.more["subscription"] = site.subscribe("short-retention", message_retention_duration={"seconds": 600})


def low_retention(site: Site, _: pytest.MonkeyPatch) -> None:
    site.more["subscription"] = site.subscribe("low-retention", message_retention_duration={"seconds": 7200})


def expires(site: Site, _: pytest.MonkeyPatch) -> None:
    site.more["subscription"] = site.subscribe("expires", expiration_policy={"ttl": {"seconds": 86_400}})


def ordered(site: Site, _: pytest.MonkeyPatch) -> None:
    site.more["subscription"] = site.subscribe("ordered", enable_message_ordering=True)


def dead_letter_policy(site: Site, _: pytest.MonkeyPatch) -> None:
    policy = {"dead_letter_topic": TOPIC, "max_delivery_attempts": 100}
    site.more["subscription"] = site.subscribe("dead-letter-policy", dead_letter_policy=policy)


def pubsub_away(_: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:9")


def no_secret(site: Site, _: pytest.MonkeyPatch) -> None:
    del site.environment["TIDEMARK_DATABASE_URL"]
    site.more["database_secret"] = "file:/nowhere/url"


def database_away(site: Site, _: pytest.MonkeyPatch) -> None:
    site.more["database_url"] = site.url(port=9)


def no_database(site: Site, _: pytest.MonkeyPatch) -> None:
    site.more["database_url"] = site.url(database="none")


def no_user(site: Site, _: pytest.MonkeyPatch) -> None:
    site.more["database_url"] = site.url(username="nobody")


def not_migrated(site: Site, _: pytest.MonkeyPatch) -> None:
    site.sql("DROP DATABASE IF EXISTS bare", "CREATE DATABASE bare")
    site.more["database_url"] = site.url(database="bare")


def newer_schema(site: Site, _: pytest.MonkeyPatch) -> None:
    site.sql("DROP DATABASE IF EXISTS newer", "CREATE DATABASE newer")
    site.more["database_url"] = site.url(database="newer")
    migrate(site.more["database_url"])
    site.sql("UPDATE alembic_version SET version_num = '9999'", database="newer")


def latin1(site: Site, _: pytest.MonkeyPatch) -> None:
    site.sql(
        "DROP DATABASE IF EXISTS latin1",
        "CREATE DATABASE latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    )
    site.more["database_url"] = site.url(database="latin1")


def no_schema(site: Site, _: pytest.MonkeyPatch) -> None:
    site.sql(
        "DO $$ BEGIN CREATE ROLE lost LOGIN SUPERUSER PASSWORD 'l'; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "ALTER ROLE lost SET search_path = ''",
    )
    site.more["database_url"] = site.url(username="lost", password="l")


def another_program(site: Site, _: pytest.MonkeyPatch) -> None:
    site.sql("DROP DATABASE IF EXISTS another", "CREATE DATABASE another")
    site.sql(
        "CREATE TABLE alembic_version (version_num text)",
        "INSERT INTO alembic_version VALUES ('3f2a'), ('77bc')",
        database="another",
    )
    site.more["database_url"] = site.url(database="another")


def few_privileges(site: Site, _: pytest.MonkeyPatch) -> None:
    site.sql(
        "DO $$ BEGIN CREATE ROLE reader LOGIN PASSWORD 'r'; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
    )
    site.more["database_url"] = site.url(username="reader", password="r")


def read_only(site: Site, _: pytest.MonkeyPatch) -> None:
    site.sql(
        "DO $$ BEGIN CREATE ROLE quiet LOGIN SUPERUSER PASSWORD 'q'; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "ALTER ROLE quiet SET default_transaction_read_only = on",
    )
    site.more["database_url"] = site.url(username="quiet", password="q")


def too_many_workers(site: Site, _: pytest.MonkeyPatch) -> None:
    site.fleet = Fleet(100, 4)


def role_limit(site: Site, _: pytest.MonkeyPatch) -> None:
    site.sql(
        "DO $$ BEGIN CREATE ROLE few LOGIN SUPERUSER CONNECTION LIMIT 5 PASSWORD 'f'; "
        "EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    site.more["database_url"] = site.url(username="few", password="f")


def no_dataset(site: Site, _: pytest.MonkeyPatch) -> None:
    site.more["rollup_dataset"] = f"{GCP_PROJECT}.none"


def bigquery_away(_: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")


def far_away(site: Site, _: pytest.MonkeyPatch) -> None:
    site.region = "europe-west1"


def other_clusters(site: Site, _: pytest.MonkeyPatch) -> None:
    with other_dataset(site, "clusters") as (client, dataset):
        client.create_dataset(dataset)
        table = bigquery.Table(f"{dataset}.rollups", schema=SCHEMA)
        table.time_partitioning = bigquery.TimePartitioning(type_="DAY", field="window_start")
        table.clustering_fields = ["metric"]
        client.create_table(table)


def other_type(site: Site, _: pytest.MonkeyPatch) -> None:
    with other_dataset(site, "types") as (client, dataset):
        client.create_dataset(dataset)
        schema = [bigquery.SchemaField("count", "STRING"), *[f for f in SCHEMA if f.name != "count"]]
        client.create_table(bigquery.Table(f"{dataset}.rollups", schema=schema))


def view_is_a_table(site: Site, _: pytest.MonkeyPatch) -> None:
    with other_dataset(site, "views") as (client, dataset):
        ensure(client, dataset, "US")
        client.delete_table(f"{dataset}.rollups_latest")
        client.create_table(bigquery.Table(f"{dataset}.rollups_latest", schema=SCHEMA))


FAULTS: dict[str, tuple[Fault, str, str, str, str]] = {
    "no subscription": (no_subscription, "fail", "subscription", "does not exist", "subscriptions create"),
    "a deleted topic": (no_topic, "fail", "topic", "gone", "create a topic"),
    "a short ack deadline": (short_deadline, "warn", "ack deadline", "10 s", "--ack-deadline=60"),
    "ten minutes of retention": (short_retention, "fail", "retention", "600 s", "--message-retention-duration"),
    "two hours of retention": (low_retention, "warn", "retention", "2 h", "--message-retention-duration"),
    "a subscription that expires": (expires, "warn", "expiration", "1 days", "--expiration-period=never"),
    "message ordering": (ordered, "warn", "message ordering", "on", "without ordering"),
    "a dead-letter policy": (dead_letter_policy, "warn", "dead-letter policy", "100 deliveries", "--clear-dead-letter"),
    "Pub/Sub away": (pubsub_away, "fail", "subscription", "does not serve", "again"),
    "an unreadable secret": (no_secret, "fail", "database URL", "/nowhere/url", "--database_secret"),
    "the database away": (database_away, "fail", "database", "does not answer", "host and port"),
    "no database": (no_database, "fail", "database", "none", "create the database"),
    "no such user": (no_user, "fail", "database", "nobody", "correct the user"),
    "an empty database": (not_migrated, "fail", "schema", "empty", "tidemark migrate"),
    "a newer schema": (newer_schema, "fail", "database", "9999", "install that version"),
    "LATIN1": (latin1, "fail", "database", "LATIN1", "ENCODING 'UTF8'"),
    "no schema": (no_schema, "fail", "database", "search_path", "ALTER ROLE"),
    "another program's migrations": (another_program, "fail", "database", "another program", "of its own"),
    "few privileges": (few_privileges, "fail", "privileges", "INSERT on points", "GRANT"),
    "a read-only user": (read_only, "fail", "database", "read-only", "primary"),
    "too many workers": (too_many_workers, "fail", "connections", "2400", "--max_num_workers"),
    "a limit of the role": (role_limit, "fail", "connections", "24 of 5", "--database_pool_size"),
    "no dataset": (no_dataset, "fail", "BigQuery dataset", "does not exist", "bq mk"),
    "BigQuery away": (bigquery_away, "fail", "BigQuery", "does not answer", "again"),
    "another region": (far_away, "warn", "BigQuery location", "europe-west1", "there"),
    "other clusters": (other_clusters, "fail", "BigQuery table", "clustered", "RENAME"),
    "a column of another type": (other_type, "fail", "BigQuery table", "count is STRING", "RENAME"),
    "a table instead of the view": (view_is_a_table, "fail", "BigQuery view", "not a view", "RENAME"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_found_and_its_remedy_named(site: Site, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    plant, level, subject, said, remedy = FAULTS[what]
    plant(site, monkeypatch)
    seen: list[list[Finding]] = []

    def is_named() -> bool:
        seen.append(site.look())
        lines = [f for f in seen[-1] if f.subject == subject and f.level == level]
        return any(said in f.said and remedy in f.remedy for f in lines)

    if subject == "connections":  # a session that was just closed may be counted still
        eventually(is_named)
    else:
        assert is_named(), text(seen[-1])
    found = seen[-1]
    lines = [f for f in found if f.subject == subject and f.level == level]
    others = [f for f in found if f.level == "fail" and f not in lines]
    assert others == [], "one fault must not look like two"


@pytest.mark.parametrize(
    ("fields", "subject", "level"),
    [
        ({"filter": 'attributes.a = "b"'}, "filter", "warn"),
        ({"enable_exactly_once_delivery": True}, "exactly-once delivery", "warn"),
        ({"bigquery_config": {"table": "p.d.t"}}, "delivery type", "fail"),
        ({"push_config": {"push_endpoint": "https://example.org"}}, "delivery type", "fail"),
        ({"detached": True}, "topic", "fail"),
    ],
)
def test_what_the_local_server_has_not_is_judged_all_the_same(fields: dict, subject: str, level: str) -> None:
    proto = types.Subscription.pb(types.Subscription(name="s", topic="t", **fields))
    found = [*bus._source(proto, "s"), *bus._times(proto, "s"), *bus._delivery(proto, "s")]
    assert any(f.subject == subject and f.level == level for f in found)


def test_the_connections_of_the_job_that_an_update_replaces_are_told_apart(site: Site) -> None:
    site.sql("CREATE ROLE updated LOGIN SUPERUSER CONNECTION LIMIT 26 PASSWORD 'u'")
    site.more["database_url"] = url = site.url(username="updated", password="u")

    def levels(connections: int, **query: str) -> tuple[str, str]:
        more = "&".join(f"{name}={value}" for name, value in query.items())
        running = make_engine(f"{url}?{more}" if more else url, connections, 10)
        held = [running.connect() for _ in range(connections)]
        try:
            found = next(f for f in site.look() if f.subject == "connections")
        finally:
            for one in held:
                one.close()
            running.dispose()
        return found.level, found.said

    def told() -> bool:
        level, said = levels(20)
        return level == "warn" and "24 of 6 free, once the 20 of the job" in said

    assert levels(1)[0] == "pass"
    eventually(told)  # a session that was just closed may be counted still
    assert levels(20, application_name="reports")[0] == "fail", "nobody says that these will end"


def test_sessions_of_others_are_counted_by_a_role_that_may_not_look_at_them(site: Site) -> None:
    site.sql("CREATE ROLE ordinary LOGIN PASSWORD 'o'", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO ordinary")
    looks = [site.url(), site.url(username="ordinary", password="o")]
    others = make_engine(site.url(), 10, 10)
    held = [others.connect() for _ in range(10)]
    try:
        free = []
        for site.more["database_url"] in looks:
            found = next(f for f in site.look() if f.subject == "connections")
            free.append(int(found.said.split(" of ")[1].split(" free")[0]))
    finally:
        for one in held:
            one.close()
        others.dispose()
    assert abs(free[0] - free[1]) <= 2, "but for a session that has just begun or ended"


def test_a_sample_is_judged_and_given_back(site: Site, tmp_path: Path) -> None:
    name = site.subscribe("sampled")
    now_ms = time.time_ns() // 1_000_000
    body = b'{"project":"p","source":"s","metric":"m","event_time":%d,"value":1}'
    messages = [
        {"data": body % now_ms, "attributes": {"event_time": str(now_ms)}},
        {"data": body % now_ms},
        {"data": b"no json", "attributes": {"event_time": str(now_ms)}},
        {"data": body % (now_ms + 300_000), "attributes": {"event_time": str(now_ms + 300_000)}},
    ]
    request = types.PublishRequest(topic=TOPIC, messages=messages)
    site.pubsub("Publisher", "Publish", types.PublishRequest.pb(request))
    site.more["subscription"], site.sample = name, 100
    for _ in range(2):  # what is given back can be leased again at once
        found = {f.subject: f for f in site.look()}
        assert "4 messages, 3 points" in found["sample"].said
        assert "1 of 4" in found["event_time attribute"].said
        assert "(1)" in found["bodies"].said
        assert "300 s" in found["clocks"].said
    mapping = tmp_path / "m.jq"
    mapping.write_text("if .body.value == 1 then .body else empty end | .value += 1e200")
    site.more["mapping"] = str(mapping)
    found = {f.subject: f for f in site.look()}
    assert "4 messages, 0 points" in found["sample"].said
    assert "bad_value" in found["bodies"].said
    site.more["mapping"] = str(tmp_path / "none.jq")
    assert "none.jq cannot be read" in next(f for f in site.look() if f.level == "fail").said
    del site.more["mapping"]
    site.more["subscription"] = site.subscribe("never-published")
    assert "no message" in next(f for f in site.look() if f.subject == "sample").said


def test_the_command_says_it_for_people_and_for_programs(site: Site) -> None:
    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("tidemark"), "preflight", *arguments]
        environment = {**site.environment, "PATH": "/usr/bin:/bin", **more}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "pass schema" in done.stdout
    done = run("--json", TIDEMARK_ROLLUP_DATASET=f"{GCP_PROJECT}.none")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["preflight"] == "FAIL"
    assert [f["subject"] for f in said["findings"] if f["level"] == "fail"] == ["BigQuery dataset"]
    assert run("--horizon_s=never").returncode == 2
    assert site.environment["TIDEMARK_SUBSCRIPTION"] == SUBSCRIPTION
    assert site.environment["TIDEMARK_ROLLUP_DATASET"] == DATASET
