"""What the template's launcher runs: a file of its own, since it runs as `__main__` and workers cannot import that."""

import sys

from pipelines.ingest import main

if __name__ == "__main__":
    sys.exit(main())
