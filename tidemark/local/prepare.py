"""Makes everything that is made once: Prism, the BigQuery stand-in, PostgreSQL, the flights; side by side."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from tidemark.errors import TidemarkError
from tidemark.local import bigquery, flights, postgres, prism


def main() -> int:
    """Make all.

    Returns:
        0, or 1 after one sentence that says what is missing.
    """
    makers = (prism.find_or_build, bigquery.environment_directory, postgres.find, flights.events)
    try:
        with ThreadPoolExecutor(len(makers)) as pool:
            for future in [pool.submit(make) for make in makers]:
                future.result()
    except TidemarkError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
