"""Every option and every limit, as data: name, type, default, bounds and one sentence.

The command line, the environment (`TIDEMARK_<NAME>`), Beam's options and the reference page are all made from these.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tidemark.errors import UsageError

DAY_S: Final = 86_400


def tiers(text: str) -> tuple[int, ...]:
    """Parse `60,3600,86400`: window lengths in seconds, each dividing the next."""
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"needs whole seconds separated by commas, not {text!r}") from None
    if lengths[0] < 1 or any(wide <= narrow or wide % narrow for narrow, wide in itertools.pairwise(lengths)):
        raise UsageError(f"needs growing lengths of which each divides the next, not {text!r}")
    if lengths[-1] > DAY_S or DAY_S % lengths[-1]:
        raise UsageError(f"needs a last tier that divides a day ({DAY_S} s), not {text!r}")
    return lengths


def flag(text: str) -> bool:
    """Parse `true` or `false`."""
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise UsageError(f"needs true or false, not {text!r}") from None


@dataclass(frozen=True)
class Setting:
    """One option.

    Attributes:
        name: The option, with its unit as a suffix (`_s`, `_bytes`, `_days`).
        parse: From text to value; raises `UsageError` or `ValueError`.
        default: As text, or None when there is none.
        help: What it does; the default is added where it is shown.
        low, high: Inclusive bounds of a number.
        pattern: A regular expression that the whole text must match.
        shape: What `pattern` wants, in words.
        secret: Never shown, logged or sent with a job.
        local: Means nothing on Dataflow, so that a template does not have it.
        choices: The only values, with a label each.
    """

    name: str
    parse: Callable[[str], Any]
    default: str | None
    help: str
    low: float | None = None
    high: float | None = None
    pattern: str | None = None
    shape: str = ""
    secret: bool = False
    local: bool = False
    choices: Mapping[str, str] = field(default_factory=dict)

    @property
    def variable(self) -> str:
        """The environment variable that gives this option."""
        return f"TIDEMARK_{self.name.upper()}"

    def value(self, text: str) -> Any:
        """Parse and check `text`.

        Raises:
            UsageError: it names this option and says what it needs.
        """
        text = text.strip()  # a line feed at the end of what comes from a file or a secret
        shown = "the value given" if self.secret else repr(text)
        if self.pattern is not None and not re.fullmatch(self.pattern, text):
            raise UsageError(f"--{self.name} needs {self.shape}, not {shown}.")
        if self.choices and text not in self.choices:
            raise UsageError(f"--{self.name} needs {' or '.join(self.choices)}, not {shown}.")
        try:
            value = self.parse(text)
        except UsageError as error:
            raise UsageError(f"--{self.name} {error}.") from None
        except ValueError:
            kind = "a whole number" if self.parse is int else "a number"
            raise UsageError(f"--{self.name} needs {kind}, not {shown}.") from None
        if self.low is not None and not value >= self.low:
            raise UsageError(f"--{self.name} must be at least {self.low:g}, not {shown}.")
        if self.high is not None and not value <= self.high:
            raise UsageError(f"--{self.name} must be at most {self.high:g}, not {shown}.")
        return value


DATABASE_URL = Setting(
    "database_url",
    str,
    None,
    "PostgreSQL (TimescaleDB when it has the extension) that keeps the raw points: postgresql://user:password@host:port/name. "
    "On remote runners give --database_secret instead.",
    pattern=r"postgres(ql)?(\+\w+)?://\S+",
    shape="a URL such as postgresql://user:password@host:5432/name",
    secret=True,
)
DATABASE_SECRET = Setting(
    "database_secret",
    str,
    None,
    "Where the database URL is kept: projects/P/secrets/S/versions/V in Secret Manager, or file:/path.",
    pattern=r"projects/[^/\s]+/secrets/[^/\s]+/versions/[^/\s]+|file:.+",
    shape="projects/P/secrets/S/versions/V or file:/path",
)
ROLLUP_DATASET = Setting(
    "rollup_dataset",
    str,
    None,
    "BigQuery dataset for the rollups: gcp_project.dataset.",
    pattern=r"[a-z][a-z0-9.:-]{0,61}[a-z0-9]\.[A-Za-z0-9_]{1,1024}",
    shape="gcp_project.dataset",
)
ROLLUP_LOCATION = Setting(
    "rollup_location",
    str,
    None,
    "Where the dataset is made when it is missing, as BigQuery calls it: EU, US, europe-west1, …. Without it a missing "
    "dataset is refused: it cannot be moved later.",
    pattern=r"[A-Za-z]+(-[a-z]+[0-9]+)?",
    shape="a location of BigQuery, such as EU or europe-west1",
)
STORAGE_ENDPOINT = Setting(
    "bigquery_storage_endpoint",
    str,
    None,
    "host:port of a BigQuery Storage Write stand-in (plain text, no credentials); leave it out for Google's.",
    pattern=r"[A-Za-z0-9.\-\[\]:]+:\d+",
    shape="host:port",
)
TIERS_S = Setting(
    "tiers_s",
    tiers,
    "60,3600,86400",
    "Lengths of the rollup windows in seconds, aligned to UTC; each must divide the next, and the last a day. "
    "Kept in the store by the first program that stores points, as the next three are: others need not be told, and "
    "`tidemark settings` changes them.",
)
HORIZON_S = Setting(
    "horizon_s", float, "120", "How long after its end a window waits before it is first settled.", 0, 30 * DAY_S
)
DEBOUNCE_S = Setting(
    "debounce_s", float, "30", "How long late points are gathered before their windows are settled again.", 0, DAY_S
)
QUANTILES = Setting(
    "quantiles",
    flag,
    "false",
    "Rollups also have p50, p90 and p99, each within 1 % of itself, from sketches kept in the database; settling then "
    "costs about twice as much.",
)
POOL_SIZE = Setting("database_pool_size", int, "6", "Most connections to the database from one process.", 2, 100)
DATABASE_TIMEOUT_S = Setting(
    "database_timeout_s",
    float,
    "60",
    "How long one statement may take, and a transaction lie idle; a little above, a silent server is given up.",
    1,
    3600,
)

AGREED = (TIERS_S, HORIZON_S, DEBOUNCE_S, QUANTILES)
"""What all programs of a store must run with: `tidemark.store.agreement`."""
STORE = (DATABASE_URL, DATABASE_SECRET, POOL_SIZE, DATABASE_TIMEOUT_S)
WAREHOUSE = (ROLLUP_DATASET, ROLLUP_LOCATION, STORAGE_ENDPOINT)

SUBSCRIPTION = Setting(
    "subscription",
    str,
    None,
    "Pub/Sub subscription to read: projects/P/subscriptions/S.",
    pattern=r"projects/[^/\s]+/subscriptions/[^/\s]+",
    shape="projects/P/subscriptions/S",
)
LIMITS = (
    Setting("max_name_bytes", int, "256", "Longest name of a project or a source, in bytes of UTF-8.", 1, 800),
    Setting("max_metric_bytes", int, "1024", "Longest metric, with its labels, in bytes of UTF-8.", 1, 1024),
    Setting(
        "max_attributes_bytes", int, "8192", "Largest attributes of one point, in bytes of canonical JSON.", 2, 1 << 20
    ),
    Setting("max_attributes_depth", int, "8", "Deepest nesting of a point's attributes.", 1, 64),
    Setting("max_message_bytes", int, "8388608", "Largest message body, in bytes after decompression.", 1024, 1 << 28),
    Setting(
        "max_future_s",
        float,
        "600",
        "How far the event time of a point may lie after its publish time.",
        0,
        366 * DAY_S,
    ),
)
MAPPING = Setting(
    "mapping",
    str,
    None,
    "File with a jq program that makes points out of bodies of any JSON, here, or for a pipeline at gs://; it is read when the "
    "program starts. "
    "Without it bodies are those of the contract.",
)
MAPPING_CPU_S = Setting(
    "mapping_cpu_s",
    float,
    "1",
    "How long the mapping may compute for one value, in seconds of CPU; what takes longer is a dead letter.",
    0.01,
    3600,
)
RETENTION_DAYS = Setting(
    "retention_days", int, "0", "Age in days at which points are removed, and refused; 0 keeps everything.", 0, 36_500
)
CHUNK_DAYS = Setting(
    "chunk_days",
    int,
    None,
    "TimescaleDB: length in days of the chunks of points that are made from now on; without it it stays as it is, a day at "
    "first. Longer ones where little comes and is kept for years: `tidemark preflight` says when.",
    1,
    366,
)
COMPRESS_AFTER_DAYS = Setting(
    "compress_after_days",
    int,
    "7",
    "TimescaleDB: age in days at which chunks of points become columnar; later points go in all the same, but slower. "
    "0: never.",
    0,
    36_500,
)
DEAD_LETTER_DAYS = Setting(
    "dead_letter_days", int, "0", "Age in days at which dead letters are removed; 0 keeps them.", 0, 36_500
)
DEAD_LETTER_BYTES = Setting(
    "dead_letter_bytes",
    int,
    "0",
    "Most bytes of dead letters; beyond it the oldest are removed. 0: as many as there are.",
    0,
    1 << 50,
)
CORRECTIONS_DAYS = Setting(
    "corrections_days",
    int,
    "90",
    "Age in days at which it is forgotten what corrected rollups said before; 0 keeps it.",
    0,
    36_500,
)
METRICS_PORT = Setting(
    "metrics_port",
    int,
    "0",
    "Serve metrics for Prometheus over HTTP, on this port or the next free one; 0 serves none.",
    0,
    65_000,
    local=True,
)
METRICS_ADDRESS = Setting(
    "metrics_address",
    str,
    "127.0.0.1",
    "The address at which metrics are served; 0.0.0.0 is every address of this machine, for a scraper elsewhere. There "
    "are no credentials.",
    pattern=r"[0-9A-Za-z.:%_-]+",
    shape="an IP address or a host name",
    local=True,
)
PRISM_LOCATION = Setting(
    "prism_location", str, None, "Local runs: the Prism binary; looked for, then built when left out.", local=True
)
INGEST = (
    SUBSCRIPTION,
    *STORE,
    *WAREHOUSE,
    TIERS_S,
    HORIZON_S,
    DEBOUNCE_S,
    QUANTILES,
    Setting(
        "previews",
        flag,
        "true",
        "Rows of windows before they are settled. Without them nothing is shuffled and BigQuery has settled rows only, a "
        "horizon after the end of a window.",
    ),
    Setting(
        "early_firing_s",
        int,
        "10",
        "How often an open window shows an early preview, in whole seconds; 0: never, only one on time.",
        0,
        3600,
    ),
    Setting(
        "idle_timeout_s",
        float,
        "10",
        "How long without messages before the watermark follows the clock.",
        0.5,
        DAY_S,
        local=True,
    ),
    Setting(
        "watermark_span_s",
        float,
        "2",
        "The watermark is the least event time pulled in this many seconds.",
        0.1,
        DAY_S,
        local=True,
    ),
    Setting(
        "lateness_slack_s",
        float,
        "10",
        "Previews follow late points until this long after a window's horizon: until it is settled, since a settled row "
        "beats every preview.",
        0,
        30 * DAY_S,
    ),
    Setting("shards", int, "16", "Into how many keys the series are hashed for previews.", 1, 4096),
    RETENTION_DAYS,
    Setting("settle_every_s", float, "1", "How often due windows are looked for.", 0.05, 3600),
    Setting(
        "stop_when_idle_s",
        float,
        "0",
        "Local runs: drain after this many seconds without messages, settling everything; 0 runs for ever. What a reader "
        "that was killed had taken comes again after up to 20 s, or the subscription's ack deadline if that is longer.",
        0,
        DAY_S,
        local=True,
    ),
    Setting(
        "prefetch_messages",
        int,
        "20000",
        "Most messages held between the pull and their acknowledgement; 100000 on Flink, where that waits for a checkpoint.",
        1,
        10_000_000,
        local=True,
    ),
    Setting(
        "prefetch_bytes",
        int,
        "268435456",
        "Most bytes of message bodies held in memory between the pull and their acknowledgement.",
        1 << 20,
        1 << 40,
        local=True,
    ),
    Setting("pull_threads", int, "2", "Pulls kept open at once.", 1, 64, local=True),
    METRICS_PORT,
    METRICS_ADDRESS,
    PRISM_LOCATION,
    Setting(
        "streaming_mode",
        str,
        "at_least_once",
        "Dataflow: how often the service may hand a message to the pipeline. Every write can be repeated, so the cheaper "
        "at_least_once gives the same numbers.",
        choices={"at_least_once": "At least once", "exactly_once": "Exactly once"},
    ),
    Setting(
        "preflight",
        flag,
        "true",
        "Remote runners: check subscription, database and BigQuery before the job is submitted, make missing tables, and "
        "submit nothing when a check fails.",
    ),
    MAPPING,
    MAPPING_CPU_S,
    *LIMITS,
)
BACKFILL = (
    *STORE,
    *WAREHOUSE,
    TIERS_S,
    HORIZON_S,
    DEBOUNCE_S,
    QUANTILES,
    RETENTION_DAYS,
    Setting("series_project", str, None, "Archives: whose points are that say no project of their own."),
    Setting(
        "skip_damaged",
        flag,
        "false",
        "Archives: go on behind a place that cannot be read, where a packed file has another beginning. Otherwise what comes "
        "before it is stored, and the exit status is 1.",
    ),
    Setting(
        "again",
        flag,
        "false",
        "Archives: read files from their beginning that were loaded before, or have changed since. What is stored is not "
        "stored twice.",
    ),
    Setting(
        "dry_run",
        flag,
        "false",
        "Archives: read and decode only, and say what would be stored: points, times, series, what is refused, how long.",
        local=True,
    ),
    Setting(
        "max_rate",
        float,
        "0",
        "Archives: at most so many points a second from one process; 0: as fast as the store takes them.",
        0,
        1e9,
    ),
    Setting(
        "writers", int, "2", "Archives: so many blocks one process writes to the store at once for each part.", 1, 64
    ),
    Setting(
        "gather_s",
        float,
        "3600",
        "Archives: how long a running pipeline leaves the rollups of what is loaded to the load, which settles them at its end.",
        1,
        30 * DAY_S,
    ),
    METRICS_PORT,
    METRICS_ADDRESS,
    PRISM_LOCATION,
    MAPPING,
    MAPPING_CPU_S,
    *LIMITS,
)
TOPIC = Setting(
    "topic",
    str,
    None,
    "Pub/Sub topic to publish to: projects/P/topics/T.",
    pattern=r"projects/[^/\s]+/topics/[^/\s]+",
    shape="projects/P/topics/T",
)
TOKENS = Setting(
    "tokens",
    str,
    None,
    "Where the tokens are kept, a JSON line each as `tidemark token add` prints it: file:/path, or "
    "projects/P/secrets/S/versions/V in Secret Manager. Read again when it changes.",
    pattern=r"projects/[^/\s]+/secrets/[^/\s]+/versions/[^/\s]+|file:.+",
    shape="projects/P/secrets/S/versions/V or file:/path",
)
PUBLISH_TIMEOUT_S = Setting(
    "publish_timeout_s",
    float,
    "10",
    "How long what Pub/Sub does not take is tried again before its sender is told, or it goes into the spool.",
    0.1,
    600,
)
HTTP_ADDRESS = Setting(
    "http_address",
    str,
    "127.0.0.1",
    "The address at which HTTP is served; 0.0.0.0 is every address of this machine.",
    pattern=r"[0-9A-Za-z.:%_-]+",
    shape="an IP address or a host name",
)
HTTP_PORT = Setting("http_port", int, "8080", "The port at which HTTP is served; 0: any that is free.", 0, 65_535)
TLS_CERTIFICATE = Setting(
    "tls_certificate",
    str,
    None,
    "File with the certificate chain, in PEM: HTTP, MQTT and lines over TCP are served with TLS 1.2 and up only. Read "
    "again at SIGHUP.",
)
TLS_KEY = Setting("tls_key", str, None, "File with its private key, in PEM.")
TLS_CLIENT_CA = Setting(
    "tls_client_ca",
    str,
    None,
    "File with certificates, in PEM: clients need one that they have signed, and a token.",
)
MAX_CONNECTIONS = Setting("max_connections", int, "10000", "Most connections at once.", 1, 1_000_000)
CLIENT_TIMEOUT_S = Setting(
    "client_timeout_s",
    float,
    "10",
    "How long a client may take for a request's head, for its body or a device's message (and a second more for each 16 "
    "KiB of it), for saying who it is, for taking its answers, and for the handshake of TLS.",
    1,
    3600,
)
DRAIN_S = Setting(
    "drain_s",
    float,
    "20",
    "How long at most requests in flight are waited for after a signal to stop.",
    0,
    3600,
)
CORS_ORIGINS = Setting(
    "cors_origins",
    str,
    None,
    "Origins whose pages may send points from a browser, separated by commas, or *; without it none may.",
    pattern=r"\*|https?://[^\s,/]+(,https?://[^\s,/]+)*",
    shape="origins such as https://app.example.com, or *",
)
ACCESS_LOG_SHARE = Setting(
    "access_log_share", float, "0.01", "Share of the requests that are logged, chosen at random.", 0, 1
)
EDGE = (
    TOPIC,
    TOKENS,
    HTTP_ADDRESS,
    HTTP_PORT,
    Setting(
        "device_address",
        str,
        "127.0.0.1",
        "The address at which MQTT, lines over TCP and datagrams are taken; 0.0.0.0 is every address of this machine.",
        pattern=r"[0-9A-Za-z.:%_-]+",
        shape="an IP address or a host name",
    ),
    Setting(
        "mqtt_port",
        int,
        None,
        "The port at which MQTT is served, commonly 1883, or 8883 with TLS; 0: any that is free. Without it none is.",
        0,
        65_535,
    ),
    Setting(
        "tcp_port",
        int,
        None,
        "The port at which lines over TCP are taken; 0: any that is free. Without it none are.",
        0,
        65_535,
    ),
    Setting(
        "udp_ports",
        str,
        None,
        "Ports at which datagrams are taken, each with the project whose they are: PORT=PROJECT, separated by commas. A "
        "datagram carries no proof of who has sent it.",
        pattern=r"\d{1,5}=[^,]+(,\d{1,5}=[^,]+)*",
        shape="PORT=PROJECT, or several separated by commas",
    ),
    Setting(
        "udp_networks",
        str,
        "127.0.0.0/8,::1/128",
        "Networks from which datagrams are taken, separated by commas; others are counted.",
    ),
    Setting(
        "max_packet_bytes",
        int,
        "1048576",
        "Most bytes of a packet of MQTT, and of a line over TCP.",
        1024,
        64 << 20,
    ),
    Setting(
        "mqtt_sessions",
        str,
        None,
        "File in which it is kept which clients of MQTT have a session, so that they are known after a restart.",
    ),
    Setting(
        "mqtt_session_present",
        str,
        "known",
        "What a client that asks for its session is told: that there is one if it is known here, or always, where several "
        "edges stand behind one name. A client of MQTT 5 that is told there is none throws away what was not acknowledged.",
        choices={"known": "If it is known here", "always": "Always"},
    ),
    TLS_CERTIFICATE,
    TLS_KEY,
    TLS_CLIENT_CA,
    Setting(
        "tls_client_projects",
        flag,
        "false",
        "MQTT and lines over TCP: a client's certificate is enough, without a token: the subject's common name is its project.",
    ),
    PUBLISH_TIMEOUT_S,
    Setting(
        "inflight_bytes",
        int,
        "67108864",
        "Most bytes of bodies that were taken in and not yet answered, over all senders; beyond it they are told to come again.",
        1 << 20,
        1 << 36,
    ),
    MAX_CONNECTIONS,
    CLIENT_TIMEOUT_S,
    Setting(
        "max_series",
        int,
        "0",
        "Most series of a project; points of new ones are refused then, those of known ones are taken. Counted by each "
        "process since its start. 0: any number.",
        0,
        1_000_000,
    ),
    Setting(
        "spool_dir",
        str,
        None,
        "Directory for what Pub/Sub does not take for longer than --publish_timeout_s; senders are answered 202 then, and it "
        "is published later. Without it they are told to come again.",
    ),
    Setting("spool_bytes", int, "10737418240", "Most bytes of the spool.", 1 << 20, 1 << 50),
    Setting("spool_free_bytes", int, "1073741824", "So many bytes of the spool's disk are left free.", 0, 1 << 50),
    DRAIN_S,
    CORS_ORIGINS,
    ACCESS_LOG_SHARE,
    METRICS_PORT,
    METRICS_ADDRESS,
    TIERS_S,
    MAPPING,
    MAPPING_CPU_S,
    RETENTION_DAYS,
    *LIMITS,
)
SERVE = (
    DATABASE_URL,
    DATABASE_SECRET,
    Setting("database_pool_size", int, "8", "Most connections to the database, and queries at once.", 1, 100),
    Setting("query_timeout_s", float, "10", "How long an answer may take.", 0.1, 600),
    Setting(
        "max_waiting",
        int,
        "64",
        "Most requests that wait for their turn; those beyond are told to come again.",
        0,
        10_000,
    ),
    Setting(
        "tokens",
        str,
        None,
        "Where the tokens are kept, as of the edge: file:/path, or projects/P/secrets/S/versions/V; those with the right `read` "
        "may ask. Without it everybody on this machine may, and nobody else.",
        pattern=TOKENS.pattern,
        shape=TOKENS.shape,
    ),
    HTTP_ADDRESS,
    replace(HTTP_PORT, default="8090"),
    Setting(
        "edge_url",
        str,
        None,
        "The edge, to which the page may send points of its own (`#write=TOKEN` at the end of its address gives it the token); the "
        "edge has to allow this service's origin (--cors_origins).",
        pattern=r"https?://[^\s,/;'\"]+",
        shape="an origin such as https://edge.example.com",
    ),
    TLS_CERTIFICATE,
    TLS_KEY,
    TLS_CLIENT_CA,
    MAX_CONNECTIONS,
    CLIENT_TIMEOUT_S,
    DRAIN_S,
    CORS_ORIGINS,
    ACCESS_LOG_SHARE,
    METRICS_PORT,
    METRICS_ADDRESS,
    TIERS_S,
    HORIZON_S,
)
FLUSH = (TOPIC, PUBLISH_TIMEOUT_S)
TRY = (MAPPING_CPU_S, RETENTION_DAYS, *LIMITS)
DEAD_LETTERS = STORE
REDRIVE = (*STORE, TIERS_S, HORIZON_S, DEBOUNCE_S, RETENTION_DAYS, MAPPING, MAPPING_CPU_S, *LIMITS)
VERIFY = (*STORE, ROLLUP_DATASET, STORAGE_ENDPOINT, TIERS_S, HORIZON_S, QUANTILES)
MIGRATE = (*STORE, CHUNK_DAYS)
MAINTAIN = (
    *STORE,
    TIERS_S,
    HORIZON_S,
    DEBOUNCE_S,
    RETENTION_DAYS,
    COMPRESS_AFTER_DAYS,
    DEAD_LETTER_DAYS,
    DEAD_LETTER_BYTES,
    CORRECTIONS_DAYS,
)
DELETE = (*STORE, TIERS_S)
SOURCES = STORE
STATUS = STORE
ADVISE = STORE
COMPACT = (ROLLUP_DATASET, HORIZON_S, DEBOUNCE_S)
REBUILD = (*STORE, *WAREHOUSE, TIERS_S)


@dataclass(frozen=True)
class Values:
    """Checked values of a group of settings, by name; `values.horizon_s` reads one."""

    by_name: Mapping[str, Any] = field(default_factory=dict)
    told: frozenset[str] = frozenset()
    """The names of those that were given, on the command line or in the environment, and are no defaults."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["by_name"][name]
        except KeyError:
            raise AttributeError(name) from None


def read(
    settings: Iterable[Setting],
    given: Mapping[str, str | None],
    environment: Mapping[str, str] = os.environ,
) -> Values:
    """Values of `settings`: from `given` (the command line), else the environment, else the default, else None.

    Raises:
        UsageError: the first setting whose value cannot be used.
    """
    values, told = {}, set()
    for setting in settings:
        text = given.get(setting.name)
        if text is None:
            text = environment.get(setting.variable) or None
        if text is not None:
            told.add(setting.name)
        else:
            text = setting.default
        values[setting.name] = None if text is None else setting.value(text)
    return Values(values, frozenset(told))


OTHER_VARIABLES: Final = {
    "TIDEMARK_LOG_FORMAT": "the log as text or json",
    "TIDEMARK_POSTGRES_BIN": "the directory of the PostgreSQL that local servers are started from",
    "TIDEMARK_IMAGE": "the name of the image that a program runs in",
    "TIDEMARK_FAILPOINTS": "where a test breaks the program",
    "TIDEMARK_TEST_EXAMPLES": "how many examples property tests try",
    "TIDEMARK_TOKEN": "a token for the local edge, for who sends to it",
    "TIDEMARK_WATCHED": "which local servers end with the program that started them",
}
"""What is no setting, and read from the environment all the same."""
_HOST_OF_SERVICE: Final = "_SERVICE_HOST"


def refuse_unknown(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a variable of ours that no setting knows; a misspelt one would be as if it were not there.

    Those that Kubernetes gives to each pod, of services whose names begin like ours, are none of ours.

    Raises:
        UsageError: it names the first, and the setting that was perhaps meant.
    """
    every = (
        setting
        for group in (INGEST, BACKFILL, EDGE, SERVE, VERIFY, MAINTAIN, DELETE, COMPACT, REBUILD, MIGRATE)
        for setting in group
    )
    known = {setting.variable for setting in every} | OTHER_VARIABLES.keys()
    services = [name.removesuffix(_HOST_OF_SERVICE) for name in environment if name.endswith(_HOST_OF_SERVICE)]
    for name in sorted(environment):
        if not name.startswith("TIDEMARK_") or name in known:
            continue
        if any(name.startswith((f"{s}{_HOST_OF_SERVICE}", f"{s}_SERVICE_PORT", f"{s}_PORT")) for s in services):
            continue
        near = difflib.get_close_matches(name, known, 1, 0.8)
        meant = f"perhaps {near[0]} is meant; else take it away" if near else "take it away"
        raise UsageError(
            f"{name} is in the environment and no setting: {meant}. docs/reference/settings.md has them all."
        )


def require(values: Values, *names: str) -> None:
    """Refuse to go on without these settings.

    Raises:
        UsageError: it names the first that is missing and both ways to give it.
    """
    for name in names:
        if getattr(values, name) is None:
            raise UsageError(f"--{name} is missing: give it on the command line or as TIDEMARK_{name.upper()}.")
