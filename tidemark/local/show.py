"""Shows a person what the demo made: each row of some rollups, and how to look on."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tidemark.local.stack import DATASET, GCP_PROJECT, Stack

ROLLUPS: Final = 2
METRICS_PORT: Final = 9464
_HISTORIES: Final = f"""
WITH rows_of AS (
    SELECT project, source, metric, window_start,
           countif(pane = 'early') AS early,
           min(IF(pane = 'on_time', emitted_at, NULL)) AS on_time_at,
           min(IF(pane = 'settled', emitted_at, NULL)) AS settled_at,
           min(IF(pane = 'settled', count, NULL)) AS least, max(IF(pane = 'settled', count, NULL)) AS most,
           count(*) AS number
    FROM `{DATASET}.rollups` WHERE tier_s = @tier
    GROUP BY project, source, metric, window_start
)
SELECT project, source, metric, window_start FROM rows_of
WHERE early > 0 AND on_time_at < settled_at AND least < most
ORDER BY least DESC, number, window_start, project, source, metric LIMIT {ROLLUPS}"""
"""Of those that have a row of each kind (early, on time, settled, corrected) the ones with the most points."""


def show_history(tier_s: int) -> int:
    """Print some rollups of a tier with every row that was written of them; returns how many."""
    from google.cloud import bigquery  # noqa: PLC0415  # seconds to import

    from tidemark.warehouse.clients import rest  # noqa: PLC0415
    from tidemark.warehouse.read import history  # noqa: PLC0415
    from tidemark.wire.message import microseconds  # noqa: PLC0415

    client = rest(DATASET)
    config = bigquery.QueryJobConfig(query_parameters=[bigquery.ScalarQueryParameter("tier", "INT64", tier_s)])
    found = list(client.query(_HISTORIES, job_config=config).result())
    for one in found:
        key = (one.project, one.source, one.metric)
        print(f"\nEvery row of {' / '.join(key)}, {tier_s} s from {one.window_start:%H:%M:%S} UTC:")  # noqa: T201
        print(f"{'written at':<14}{'after end':>10}  {'pane':<11}{'points':>6}{'mean':>9}{'max':>8}  final")  # noqa: T201
        previous = None
        for row in history(client, DATASET, key, tier_s, microseconds(one.window_start)):
            print(_line(row, previous))  # noqa: T201
            previous = row if row.pane == "settled" else previous
    if not found:
        print("\nNo rollup has a row of each kind: early, on time, settled and corrected.")  # noqa: T201
    print(flush=True)  # noqa: T201
    return len(found)


def _line(row: Any, previous: Any) -> str:
    from tidemark.wire.message import moment  # noqa: PLC0415

    again = row.pane == "settled" and previous is not None and row.count != previous.count
    return (
        f"{moment(row.emitted_at):%H:%M:%S.%f}"[:12].ljust(14)
        + f"{(row.emitted_at - row.window_end) / 1e6:>8.1f} s  {'corrected' if again else row.pane:<11}"
        + f"{row.count:>6}{row.sum / row.count:>9.2f}{row.max:>8.0f}  {'yes' if row.final else 'no'}"
    )


def how_to_look(
    stack: Stack, environment: Mapping[str, str], tier_s: int = 30, metric: str = "arrival_delay_min"
) -> None:
    """Print commands that work as they stand, in a shell in this directory; rollups are those of this tier and metric."""
    python = shlex.quote(os.path.relpath(sys.executable))
    tidemark = shlex.quote(os.path.relpath(Path(sys.executable).with_name("tidemark")))
    state = shlex.quote(str(stack.state))
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())
    print(  # noqa: T201
        f"""The servers are up, with all their state in {stack.state}.

# what leads programs to them
{exports}

# the points, in PostgreSQL
{tidemark} local sql --state {state} "SELECT source, metric, event_time, value, attributes->>'scheduled' AS scheduled
  FROM points JOIN series USING (series_id) ORDER BY publish_time - event_time DESC LIMIT 5"

# the rollups, with google-cloud-bigquery
{python} - <<'END'
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

client = bigquery.Client(project="{GCP_PROJECT}", credentials=AnonymousCredentials())
for row in client.query('''
    SELECT source, window_start, count, round(sum / count, 1) AS mean, max
    FROM `{DATASET}.rollups_latest`
    WHERE tier_s = {tier_s} AND metric = '{metric}' ORDER BY mean DESC LIMIT 5''').result():
    print(*row.values())
END

# the page, at the address that it prints
env -u TIDEMARK_TOKENS {tidemark} serve

# the pipeline again, with its metrics at http://127.0.0.1:{METRICS_PORT}/metrics; Ctrl-C ends it
{python} -m pipelines.ingest --metrics_port={METRICS_PORT}

# stop the servers and remove all
{tidemark} local down --purge --state {state}
""",
        flush=True,
    )


def verified() -> bool:
    """Run `tidemark verify` as a user would; whether it passed."""
    say("tidemark verify")
    return subprocess.run([sys.executable, "-m", "tidemark", "verify"], check=False).returncode == 0


def say(text: str) -> None:
    """A line for a person."""
    print(text, flush=True)  # noqa: T201
