"""The reference pages that are made from the code: `python -m tidemark.operate.reference docs/reference`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from sqlalchemy.dialects.postgresql import dialect

import tidemark.edge.reference as edge
import tidemark.query.reference as query
from tidemark.metrics import METRICS, NAMESPACE, Kind
from tidemark.settings import (
    ADVISE,
    AGREED,
    COMPACT,
    DELETE,
    EDGE,
    FLUSH,
    INGEST,
    MAINTAIN,
    MIGRATE,
    REBUILD,
    SERVE,
    SOURCES,
    STATUS,
    STORE,
    VERIFY,
    Setting,
)
from tidemark.store import errors
from tidemark.store.tables import metadata
from tidemark.warehouse.tables import SCHEMA, TABLE, VIEW

_NOTE: Final = "<!-- Made from the code by `python -m tidemark.operate.reference docs/reference`: change it there. -->"
TAKEN_BY: Final[dict[str, tuple[Setting, ...]]] = {
    "pipelines.ingest": INGEST,
    "edge": EDGE,
    "edge flush": FLUSH,
    "serve": SERVE,
    "migrate": MIGRATE,
    "verify": VERIFY,
    "rebuild": REBUILD,
    "delete": DELETE,
    "maintain": MAINTAIN,
    "sources": SOURCES,
    "status": STATUS,
    "advise": ADVISE,
    "settings": (*STORE, *AGREED),
    "compact": COMPACT,
}


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    return {
        "settings.md": _text(_settings()),
        "metrics.md": _text(_metrics()),
        "database-errors.md": _text(_database_errors()),
        "tables.md": _text(_tables()),
        "edge.md": _text(edge.page(_NOTE)),
        "edge.openapi.json": edge.openapi(),
        "query.md": _text(query.page(_NOTE)),
        "query.openapi.json": query.openapi(),
    }


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _settings() -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield _NOTE
    yield ""
    yield (
        "Each is an option (`--name=value`) of the commands named and an environment variable; the command line wins. "
        "`tidemark preflight` takes those of the stores and of Pub/Sub. What is *local* means nothing on Dataflow; what is "
        "*secret* is never shown, logged or sent with a job."
    )
    yield ""
    yield "| option, variable | default | bounds | what it does | taken by |"
    yield "|---|---|---|---|---|"
    every: dict[str, Setting] = {s.name: s for taken in TAKEN_BY.values() for s in taken}
    for setting in every.values():
        takers = ", ".join(f"`{name}`" for name, taken in TAKEN_BY.items() if setting in taken)
        marks = "".join(f" *{mark}*" for mark in ("local", "secret") if getattr(setting, mark))
        default = f"`{setting.default}`" if setting.default is not None else "none"
        yield (
            f"| `--{setting.name}`{marks}<br>`{setting.variable}` | {default} | {_bounds(setting)} | "
            f"{setting.help.replace('|', chr(92) + '|')} | {takers} |"
        )


def _bounds(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    if setting.low is not None and setting.high is not None:
        return f"{setting.low:,.10g} to {setting.high:,.10g}"
    return setting.shape or ""


def _metrics() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield _NOTE
    yield ""
    yield (
        f"In the namespace `{NAMESPACE}`, under the same names on every engine. On Dataflow they are custom metrics of the job, "
        "on Flink user metrics of its operators. A local run prints them as JSON lines, and any worker process serves them "
        f"to Prometheus with `--metrics_port`: there a counter `x` is `{NAMESPACE}_x_total`, the others are `{NAMESPACE}_x`. "
        "Counters count what was done, so that a bundle which was done twice counts twice; the account that balances is the "
        "table `ledger`. On Dataflow gauges are not kept: "
        "`tidemark verify` and the table `marks` say the same."
    )
    yield ""
    yield "| metric | kind | |"
    yield "|---|---|---|"
    for metric in METRICS.values():
        bounds = f" Buckets up to {', '.join(f'{bound:g}' for bound in metric.bounds)}." if metric.bounds else ""
        kind = "histogram" if metric.kind is Kind.DISTRIBUTION else metric.kind.value
        if metric.labels:
            kind = f"{kind} by {', '.join(f'`{label}`' for label in metric.labels)}, for Prometheus only"
        yield f"| `{metric.name}` | {kind} | {metric.help}{bounds} |"


def _database_errors() -> Iterator[str]:
    yield "# What is done about each database error"
    yield ""
    yield _NOTE
    yield ""
    yield (
        "By [SQLSTATE](https://www.postgresql.org/docs/current/errcodes-appendix.html); a full code goes before its class. "
        "Nothing is acknowledged before it is committed, so waiting loses nothing. "
        "`23505` is no error: the block is merged instead."
    )
    yield ""
    yield "| SQLSTATE | name | what is done |"
    yield "|---|---|---|"
    for state in errors.STATES:
        code = f"{state.code}xxx" if len(state.code) == 2 else state.code
        yield f"| `{code}` | {state.name} | {state.kind.value} |"
    yield f"| none | the connection broke, or nobody answers in time | {errors.LOST.value} |"
    yield f"| others | | {errors.OTHERS.value} |"


def _tables() -> Iterator[str]:
    yield "# Tables"
    yield ""
    yield _NOTE
    yield ""
    yield (
        "What a query may read. Times are `timestamptz` in PostgreSQL and `TIMESTAMP` in BigQuery; all are UTC. Other programs "
        "read; only Tidemark writes."
    )
    postgresql = dialect()  # type: ignore[no-untyped-call]
    for table in metadata.sorted_tables:
        yield ""
        yield f"## PostgreSQL: `{table.name}`"
        yield ""
        yield "| column | type | |"
        yield "|---|---|---|"
        for column in table.columns:
            key = " *key*" if column.primary_key else ""
            kind = str(column.type.compile(dialect=postgresql)).lower().replace(' collate "c"', "")
            yield f"| `{column.name}`{key} | {kind} | {column.doc or column.comment} |"
    yield ""
    yield f"## BigQuery: `{TABLE}`, and the view `{VIEW}` with the newest row of each rollup"
    yield ""
    yield "| column | type | |"
    yield "|---|---|---|"
    for field in SCHEMA:
        yield f"| `{field.name}` | {field.field_type.lower()} | {field.description} |"


def main() -> int:
    """Write the pages into the directory that is given."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (directory / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
