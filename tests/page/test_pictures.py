"""The pictures of docs/page.md are of the page that is here."""

from __future__ import annotations

import re
from pathlib import Path

from tests.page.pictures import MADE_FROM, digest

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = DOCS / "pictures"


def test_they_are_of_this_page() -> None:
    assert (PICTURES / MADE_FROM).read_text().strip() == digest(), (
        "The page has changed: PAGE_PICTURES=docs/pictures .venv/bin/python -m pytest tests/page"
    )


def test_each_is_shown_and_small() -> None:
    shown = set(
        re.findall(
            r"\]\((?:docs/)?pictures/([^)]+)\)",
            (DOCS / "page.md").read_text() + (DOCS.parent / "README.md").read_text(),
        )
    )
    kept = {path.name for path in PICTURES.glob("*.png")}
    assert shown == kept
    assert all(path.stat().st_size < 300_000 for path in PICTURES.glob("*.png"))
