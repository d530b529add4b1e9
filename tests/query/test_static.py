"""The page's files, as a browser gets them."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from tidemark.query.static import ABOUT, ROOT, UNDER, Page

EDGE = "https://edge.example.com"
MOST_BYTES = 90_000


def test_every_file_that_is_referred_to_is_there() -> None:
    files = Page(None).files
    for path, file in files.items():
        text = file.body.decode()
        for found in re.findall(r"""(?:src|href)="(/[^"]*)"|from "\./([^"]+)"|fetch\("(/[^"]*)"\)""", text):
            name = found[0] or found[2] or UNDER + found[1]
            assert name in files, (path, name)


def test_nothing_is_asked_of_anybody_else() -> None:
    for path, file in Page(None).files.items():
        code = re.sub(rb"/\*!.*?\*/", b"", file.body)  # the licence names where it is from
        assert not re.search(rb"https?://", code), path


def test_nothing_is_inline() -> None:
    page = Page(None).files[ROOT].body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", page)
    for path, file in Page(None).files.items():
        if path.endswith(".js") and not path.endswith("uplot.js"):
            assert not re.search(
                rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", file.body
            )


def test_all_of_it_is_small() -> None:
    assert sum(len(file.packed) for file in Page(EDGE).files.values()) < MOST_BYTES / 2
    for file in Page(EDGE).files.values():
        assert gzip.decompress(file.packed) == file.body


@pytest.mark.parametrize("edge", [None, EDGE])
def test_it_may_send_to_the_edge_and_nowhere_else(edge: str | None) -> None:
    page = Page(edge)
    policy = dict(page.headers)[b"content-security-policy"].decode()
    allowed = next(each for each in policy.split("; ") if each.startswith("connect-src"))
    assert allowed.split() == ["connect-src", "'self'", *([edge] if edge else [])]
    assert "unsafe" not in policy
    assert json.loads(page.files[UNDER + ABOUT].body)["edge"] == edge
