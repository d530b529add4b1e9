"""The main job on real data: a day of flights through the whole pipeline, on stand-ins, in about a minute and a half."""

from __future__ import annotations

from tidemark.stop import end_at_once, end_by_signals

if __name__ == "__main__":  # what follows takes a while to import, and a signal may come by then
    end_at_once()

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from tidemark.errors import LocalError, TidemarkError
from tidemark.local import archive_demo, flights, install, prism
from tidemark.local.install import side_by_side
from tidemark.local.job import Job
from tidemark.local.run import PAGE_PORT, origin, page, usual
from tidemark.local.show import how_to_look, say, show_history, verified
from tidemark.local.stack import TOPIC, Stack
from tidemark.local.watch import Watch
from tidemark.program import reported

SPEED: Final = 1440.0
BASE_S: Final = 2
TIERS_S: Final = f"{BASE_S},10,30"
HORIZON_S: Final = 4
OPTIONS: Final = (
    "--debounce_s=2",
    "--early_firing_s=1",
    "--idle_timeout_s=2",
    "--lateness_slack_s=0",
    "--settle_every_s=0.5",
    "--watermark_span_s=0.5",
)
"""A day is a minute: windows of two seconds hold 48 minutes, and a delay of more than about two hours comes late."""
SETTLED_S: Final = 120.0
"""After the last flight its widest window is still open for up to 30 s, and settled once more at its horizon."""
_SHOW_S: Final = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; its last line on standard output is one JSON object.

    Returns:
        0: `verify` passed, and every distinct point was stored; 128 and a signal's number: it was ended, and nothing is
        left; 1 otherwise.
    """
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__, allow_abbrev=False)
    parser.add_argument("--keep", action="store_true", help="leave the servers up afterwards, and say how to look")
    parser.add_argument(
        "--speed", type=float, default=SPEED, help=f"how much faster than the day was; default {SPEED:g}"
    )
    parser.add_argument(
        "--archive", action="store_true", help="load a whole year of flights and weather from files instead"
    )
    arguments = parser.parse_args(argv)
    if not arguments.speed > 0:
        parser.error("--speed must be more than 0")
    end_by_signals(install.interrupt)
    keep = arguments.keep
    run = (
        partial(archive_demo.load, keep=keep) if arguments.archive else partial(_run, speed=arguments.speed, keep=keep)
    )
    return reported(lambda: _demo(run, keep=keep))


def _demo(run: Callable[[Stack], bool], *, keep: bool) -> int:
    """Run it, with a watcher beside it that ends its servers when it cannot."""
    stack = Stack(Path(tempfile.mkdtemp(prefix="tidemark-demo-")))
    watch = Watch(stack)
    kept = False
    try:
        passed = run(stack)
        kept = keep
    except TidemarkError as error:
        raise LocalError(f"{error} The logs are in {_kept_logs(stack)}.") from error
    finally:
        if not kept:
            stack.down(purge=True)
            shutil.rmtree(stack.state, ignore_errors=True)
        watch.clean()
    return 0 if passed else 1


def _run(stack: Stack, *, speed: float, keep: bool) -> bool:
    began = time.monotonic()
    say(f"Making ready: Pub/Sub, PostgreSQL, BigQuery, Prism and the flights, in {stack.state} …")
    _, _, day = side_by_side([prism.find_or_build, stack.up, flights.events])
    environment = {**stack.environment(), "TIDEMARK_TIERS_S": TIERS_S, "TIDEMARK_HORIZON_S": str(HORIZON_S)}
    os.environ.update(environment)  # for the clients of this process
    job = Job(environment, stack.state / "ingest.log", *OPTIONS)
    watched = page(environment, stack.state, usual(PAGE_PORT))
    try:
        watched.start()
        job.wait_ready()
        say(f"See it on a page: {origin(watched.port())}/?project={flights.PROJECT}&range=10+min")
        counters, published, distinct = _replay(job, day, speed)
    finally:
        if job.status() is None:
            job.kill()
        watched.stop()
    show_history(BASE_S)
    passed = verified()
    if keep:
        how_to_look(stack, environment)
    return _conclude(counters, published, distinct, passed=passed, seconds=time.monotonic() - began)


def _replay(job: Job, events: Sequence[flights.FlightEvent], speed: float) -> tuple[dict[str, Any], int, int]:
    """Publish the day and show how the pipeline does, until everything that it owes is settled."""
    from tidemark.local.replay import Replay  # noqa: PLC0415  # reads PUBSUB_EMULATOR_HOST, imports for a second

    replay = Replay(events, TOPIC, speed)
    replay.start()
    say(
        f"{len(events):,} departures and arrivals of {flights.DATE}, {speed:g} times as fast; tiers of {TIERS_S} s, "
        f"horizon {HORIZON_S} s. Their times are moved to now: {replay.first_scheduled:%H:%M} UTC of that day is "
        f"{replay.began:%H:%M:%S} UTC of {replay.began:%d %B}; what the clock said then is in the attributes."
    )
    say(f"{'':>8}{'published':>10}{'stored':>8}{'late':>6}{'lag s':>7}{'previews':>10}{'settled':>9}{'corrected':>11}")
    shown = ended = 0.0
    while job.status() is None and job.latest.get("event") != "drained":
        if replay.error is not None:
            raise LocalError(f"Publishing failed: {replay.error}")
        now = time.monotonic()
        if now - shown >= _SHOW_S:
            shown = now
            say(_progress(replay.published, job.latest))
        if not replay.is_alive() and not ended:
            ended = now
        if ended and (now - ended > SETTLED_S or (_all_read(job, replay.published) and not _marks())):
            job.drain()
            break
        time.sleep(0.2)
    counters = job.drained()
    say(_progress(replay.published, counters))
    return counters, replay.published, replay.keys()


def _all_read(job: Job, published: int) -> bool:
    """Every message is acknowledged, and so in the database."""
    return bool(job.latest.get("acknowledged", 0) >= published)


def _marks() -> int:
    """Windows that are owed a settling, or a last look."""
    from tidemark.store.connection import make_engine, transaction  # noqa: PLC0415  # SQLAlchemy

    pool = make_engine(os.environ["TIDEMARK_DATABASE_URL"], 1, 60)
    try:
        with transaction(pool) as connection:
            return int(connection.exec_driver_sql("SELECT count(*) FROM marks").scalar_one())
    finally:
        pool.dispose()


def _progress(published: int, counters: Mapping[str, Any]) -> str:
    watermark = counters.get("watermark")
    clock, lag = "--:--:--", ""
    if watermark:
        clock = datetime.fromtimestamp(watermark, UTC).strftime("%H:%M:%S")
        lag = f"{max(0.0, time.time() - watermark):.1f}"
    numbers = [counters.get(name, 0) for name in ("inserted", "late_after_horizon", "previews", "settled", "corrected")]
    return f"{clock}{published:>10,}{numbers[0]:>8,}{numbers[1]:>6,}{lag:>7}{numbers[2]:>10,}{numbers[3]:>9,}{numbers[4]:>11,}"


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
        "refreshed": counters.get("refreshed", 0),
        "verify": "PASS" if passed else "FAIL",
        "seconds": round(seconds, 1),
    }
    if ledger.inserted != distinct:
        say(f"{distinct:,} distinct points were published, {ledger.inserted:,} were stored.")
    print(json.dumps(result), flush=True)
    return passed and ledger.inserted == distinct


def _kept_logs(stack: Stack) -> Path:
    """Where the logs are once the state is gone."""
    target = stack.state.with_name(f"{stack.state.name}-logs")
    target.mkdir(exist_ok=True)
    logs = {"ingest": stack.state / "ingest.log"} | {name: server.log for name, server in stack.servers().items()}
    for name, log in logs.items():
        if log.exists():
            shutil.copy(log, target / f"{name}.log")
    return target


if __name__ == "__main__":
    sys.exit(main())
