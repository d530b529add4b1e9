"""The main job on real data: a day of flights through the whole pipeline, on stand-ins, in about a minute."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tidemark.errors import LocalError, TidemarkError
from tidemark.local import flights, prism
from tidemark.local.job import Job
from tidemark.local.stack import DATASET, TOPIC, Stack

SPEED: Final = 1440.0
BASE_S: Final = 2
TIERS_S: Final = f"{BASE_S},10,60"
HORIZON_S: Final = 4
OPTIONS: Final = (
    "--debounce_s=2",
    "--early_firing_s=1",
    "--idle_timeout_s=2",
    "--lateness_slack_s=0",
    "--settle_every_s=0.5",
    "--stop_when_idle_s=5",
)
"""A day is a minute: windows of two seconds hold 48 minutes, and a delay of more than about two hours comes late.
Nothing is published for more than two seconds, so five idle seconds mean that the day is over."""
_SHOW_S: Final = 2.0
_HISTORY: Final = f"""
SELECT project, source, metric, window_start,
       max(CAST(pane = 'early' AS INT64)) AS early,
       CAST(min(IF(pane = 'on_time', emitted_at, NULL)) < min(IF(pane = 'settled', emitted_at, NULL)) AS INT64) AS in_order,
       sum(CAST(pane = 'settled' AS INT64)) AS settled, count(DISTINCT count) AS counts
FROM `{DATASET}.rollups` WHERE tier_s = {BASE_S}
GROUP BY project, source, metric, window_start
ORDER BY early DESC, coalesce(in_order, 0) DESC, least(counts, 4) DESC, least(settled, 3) DESC, window_start LIMIT 2"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; its last line on standard output is one JSON object.

    Returns:
        0: `verify` passed, and every distinct point was stored; 1 otherwise.
    """
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__, allow_abbrev=False)
    parser.add_argument("--keep", action="store_true", help="leave the servers up afterwards, and say how to look")
    parser.add_argument(
        "--speed", type=float, default=SPEED, help=f"how much faster than the day was; default {SPEED:g}"
    )
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    stack = Stack(Path(tempfile.mkdtemp(prefix="tidemark-demo-")))
    keep = False
    try:
        passed = _run(stack, arguments.speed, keep=arguments.keep)
        keep = arguments.keep
    except TidemarkError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if not keep:
            stack.down(purge=True)
            shutil.rmtree(stack.state, ignore_errors=True)
    return 0 if passed else 1


def _run(stack: Stack, speed: float, *, keep: bool) -> bool:
    began = time.monotonic()
    _say("Making ready: Pub/Sub, PostgreSQL, BigQuery, Prism and the flights …")
    with ThreadPoolExecutor(3) as pool:
        engine, up, day = pool.submit(prism.find_or_build), pool.submit(stack.up), pool.submit(flights.events)
        engine.result()
        day.result()
        up.result()
    environment = _environment(stack)
    os.environ.update(environment)  # for the clients of this process
    job = Job(environment, stack.state / "ingest.log", *OPTIONS)
    try:
        job.wait_ready()
        day_events = day.result()
        _say(
            f"{len(day_events):,} departures and arrivals of {flights.DATE}, {speed:g} times as fast; tiers of "
            f"{TIERS_S} s, horizon {HORIZON_S} s."
        )
        counters, published, distinct = _replay(job, day_events, speed)
    finally:
        if job.status() is None:
            job.kill()
    _show_history()
    passed = _verify()
    if keep:
        _how_to_look(stack)
    return _conclude(counters, published, distinct, passed=passed, seconds=time.monotonic() - began)


def _replay(job: Job, events: Sequence[flights.FlightEvent], speed: float) -> tuple[dict[str, Any], int, int]:
    """Publish the day and show how the pipeline does until it has drained."""
    from tidemark.local.replay import Replay  # noqa: PLC0415  # reads PUBSUB_EMULATOR_HOST, imports for a second

    replay = Replay(events, TOPIC, speed)
    replay.start()
    _say(f"{'':>8}{'published':>10}{'stored':>8}{'late':>6}{'lag s':>7}{'previews':>10}{'settled':>9}{'corrected':>11}")
    shown = 0.0
    while job.status() is None and job.latest.get("event") != "drained":
        if replay.error is not None:
            raise LocalError(f"Publishing failed: {replay.error}")
        if time.monotonic() - shown >= _SHOW_S:
            shown = time.monotonic()
            _say(_progress(replay.published, job.latest))
        time.sleep(0.1)
    counters = job.drained()
    replay.join(60)
    _say(_progress(replay.published, counters))
    return counters, replay.published, replay.keys()


def _progress(published: int, counters: Mapping[str, Any]) -> str:
    watermark = counters.get("watermark")
    clock, lag = "--:--:--", ""
    if watermark:
        clock = datetime.fromtimestamp(watermark, UTC).strftime("%H:%M:%S")
        lag = f"{max(0.0, time.time() - watermark):.1f}"
    numbers = [counters.get(name, 0) for name in ("inserted", "late_after_horizon", "previews", "settled", "corrected")]
    return f"{clock}{published:>10,}{numbers[0]:>8,}{numbers[1]:>6,}{lag:>7}{numbers[2]:>10,}{numbers[3]:>9,}{numbers[4]:>11,}"


def _show_history() -> None:
    """Two rollups with every row that was written of them."""
    from tidemark.warehouse.clients import rest  # noqa: PLC0415  # seconds to import
    from tidemark.warehouse.read import history  # noqa: PLC0415
    from tidemark.wire.message import microseconds, moment  # noqa: PLC0415

    client = rest(DATASET)
    for found in list(client.query(_HISTORY).result()):
        key = (found.project, found.source, found.metric)
        _say(f"\nEvery row of {' / '.join(key)}, {BASE_S} s from {found.window_start:%H:%M:%S} UTC:")
        _say(f"{'written at':<14}{'after end':>10}  {'pane':<11}{'points':>6}{'mean':>9}{'max':>8}  final")
        previous = None
        for row in history(client, DATASET, key, BASE_S, microseconds(found.window_start)):
            again = row.pane == "settled" and previous is not None and row.count != previous.count
            if row.pane == "settled":
                previous = row
            _say(
                f"{moment(row.emitted_at):%H:%M:%S.%f}"[:12].ljust(14)
                + f"{(row.emitted_at - row.window_end) / 1e6:>8.1f} s  {'corrected' if again else row.pane:<11}"
                + f"{row.count:>6}{row.sum / row.count:>9.2f}{row.max:>8.0f}  {'yes' if row.final else 'no'}"
            )
    _say("")


def _verify() -> bool:
    """Run `tidemark verify` as a user would."""
    _say("tidemark verify")
    return subprocess.run([Path(sys.executable).with_name("tidemark"), "verify"], check=False).returncode == 0


def _conclude(counters: Mapping[str, Any], published: int, distinct: int, *, passed: bool, seconds: float) -> bool:
    """Print the last line; whether every distinct point was stored and all was proved."""
    from tidemark.store.connection import make_engine, transaction  # noqa: PLC0415  # SQLAlchemy
    from tidemark.store.ledger import totals  # noqa: PLC0415

    pool = make_engine(os.environ["TIDEMARK_DATABASE_URL"], 1, 60)
    with transaction(pool) as connection:
        ledger = totals(connection)
    pool.dispose()
    result = {
        "published": published,
        "received": ledger.received,
        "inserted": ledger.inserted,
        "overwritten": ledger.overwritten,
        "ignored": ledger.ignored,
        "dead_lettered": ledger.dead_lettered,
        "late": counters.get("late_after_horizon", 0),
        "previews": counters.get("previews", 0),
        "settled": counters.get("settled", 0),
        "corrected": counters.get("corrected", 0),
        "verify": "PASS" if passed else "FAIL",
        "seconds": round(seconds, 1),
    }
    if ledger.inserted != distinct:
        _say(f"{distinct:,} distinct points were published, {ledger.inserted:,} were stored.")
    print(json.dumps(result), flush=True)
    return passed and ledger.inserted == distinct


def _how_to_look(stack: Stack) -> None:
    tidemark = shlex.quote(os.path.relpath(Path(sys.executable).with_name("tidemark")))
    state = shlex.quote(str(stack.state))
    names = " ".join(f"export {name}={shlex.quote(value)};" for name, value in _environment(stack).items())
    _say(
        f"""The servers are up, with all their state in {stack.state}.
Look into PostgreSQL:  {tidemark} local psql --state {state}
Set the environment for google-cloud-bigquery, tidemark verify or python -m pipelines.ingest:
{names}
Stop and remove all:   {tidemark} local down --purge --state {state}
"""
    )


def _environment(stack: Stack) -> dict[str, str]:
    return {**stack.environment(), "TIDEMARK_TIERS_S": TIERS_S, "TIDEMARK_HORIZON_S": str(HORIZON_S)}


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
