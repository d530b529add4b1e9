"""`tidemark preflight`: whether subscription, database and BigQuery are what a job needs, before there is one.

Each line is pass, warn or fail and says what to do. It changes nothing; only `--sample` touches the subscription: it
leases a few messages and gives them back at once, which counts as a delivery attempt of each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from tidemark.arguments import add_settings, read_settings
from tidemark.errors import TidemarkError
from tidemark.findings import Finding, failed, refused, text
from tidemark.settings import INGEST, Values, require
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits


@dataclass(frozen=True)
class Fleet:
    """The greatest number of processes that connect to the database.

    Attributes:
        workers: Machines.
        processes: Worker processes on each; Dataflow starts one a CPU.
    """

    workers: int
    processes: int


def preflight(values: Values, fleet: Fleet, region: str | None = None, sample: int = 0) -> list[Finding]:
    """Look at everything a job needs, side by side; takes as long as the slowest, at most about ten seconds.

    Args:
        values: Of `settings.INGEST`.
        fleet: Who will connect to the database.
        region: Where the job runs; None: unknown.
        sample: Messages to lease, look at and give back; 0 leaves the subscription alone.
    """
    # each imports its service's client, which takes a second
    from tidemark.bus import preflight as bus  # noqa: PLC0415
    from tidemark.store import preflight as store  # noqa: PLC0415
    from tidemark.warehouse import preflight as warehouse  # noqa: PLC0415

    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("subscription", lambda: bus.subscription(values.subscription)),
        ("database", lambda: store.database(values, fleet.workers, fleet.processes)),
        ("BigQuery", lambda: warehouse.tables(values.rollup_dataset, region)),
        ("BigQuery owner", lambda: _owner(values)),
    ]
    if sample:
        checks.append(("sample", lambda: _sampled(values, sample)))
    with ThreadPoolExecutor(len(checks)) as pool:
        return [finding for found in pool.map(lambda check: _guarded(*check), checks) for finding in found]


def _sampled(values: Values, number: int) -> Iterator[Finding]:
    """A sample of messages, read as the pipeline will."""
    from tidemark.bus import preflight as bus  # noqa: PLC0415
    from tidemark.mapping.mapped import OneDecoder  # noqa: PLC0415
    from tidemark.mapping.program import of_settings  # noqa: PLC0415

    limits, mapping = Limits.of(values), of_settings(values)
    if mapping is None:
        yield from bus.sample(values.subscription, number, Decoder(limits).decode)
        return
    with closing(OneDecoder(mapping, Decoder(limits))) as mapped:
        yield from bus.sample(values.subscription, number, mapped.decode)


def _owner(values: Values) -> Iterator[Finding]:
    """Whether the dataset holds the rollups of this database; where either cannot be asked, others say so."""
    from tidemark.store.preflight import asked_identity  # noqa: PLC0415
    from tidemark.warehouse.preflight import owned  # noqa: PLC0415

    store = asked_identity(values)
    if store is not None:
        yield from owned(values.rollup_dataset, store)


def _guarded(subject: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(check())
    except TidemarkError as error:
        found.append(refused(subject, str(error), "mend this, then run the preflight again"))
    return found


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "preflight", help="check what a job needs before it is launched", description=__doc__
    )
    add_settings(parser, [setting for setting in INGEST if not setting.local and setting.name != "preflight"])
    parser.add_argument("--region", help="where the job will run, to compare BigQuery's location with")
    parser.add_argument(
        "--max_workers", type=int, default=1, metavar="N", help="most machines of the job (%(default)s)"
    )
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="worker processes on each (%(default)s)")
    parser.add_argument(
        "--sample", type=int, default=0, metavar="N", help="lease N messages, look at them, give them back at once"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check and report: 0 when nothing failed, 1 when something did."""
    values = read_settings(arguments, [setting for setting in INGEST if not setting.local])
    require(values, "subscription", "rollup_dataset")
    fleet = Fleet(arguments.max_workers, arguments.processes)
    findings = preflight(values, fleet, arguments.region, arguments.sample)
    if arguments.json:
        verdict = "FAIL" if failed(findings) else "PASS"
        print(json.dumps({"preflight": verdict, "findings": [asdict(finding) for finding in findings]}))  # noqa: T201
    else:
        print(text(findings))  # noqa: T201
    return 1 if failed(findings) else 0
