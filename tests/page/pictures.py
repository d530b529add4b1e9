"""Pictures of the page for docs/page.md, made while it is tested: `PAGE_PICTURES=docs/pictures scripts/test tests/page`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from playwright.sync_api import Page

from tidemark.query.static import Page as Files

MADE_FROM = "made-from"


def picture(page: Page, name: str) -> None:
    """Keep one, where they are wanted."""
    directory = os.environ.get("PAGE_PICTURES")
    if not directory:
        return
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = false; }); scrollTo(0, 0)")
    page.wait_for_timeout(300)
    page.screenshot(path=Path(directory) / f"{name}.png", full_page=True)
    page.evaluate("document.getElementById('as-table').open = true")
    (Path(directory) / MADE_FROM).write_text(digest() + "\n")


def digest() -> str:
    """Of the page's files, so that pictures of another page are known."""
    found = hashlib.blake2b(digest_size=12)
    for path, file in sorted(Files(None).files.items()):
        if not path.endswith(".json"):
            found.update(path.encode() + file.body)
    return found.hexdigest()
