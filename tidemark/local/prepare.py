"""Makes everything that is made once: Prism, the BigQuery stand-in, PostgreSQL, the flights; side by side."""

from __future__ import annotations

import sys

from tidemark.errors import TidemarkError
from tidemark.local import bigquery, flights, install, postgres, prism
from tidemark.local.install import side_by_side
from tidemark.stop import end_by_signals


def main() -> int:
    """Make all.

    Returns:
        0, or 1 after one sentence that says what is missing.
    """
    end_by_signals(install.interrupt)
    try:
        side_by_side([prism.find_or_build, bigquery.environment_directory, postgres.find, flights.events])
    except TidemarkError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
