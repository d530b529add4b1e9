"""What somebody sees and does on the page, in a browser, with everything behind it as it is."""

from __future__ import annotations

import re
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.page.conftest import Running
from tests.page.pictures import picture
from tests.waiting import eventually
from tidemark.store.connection import make_engine, transaction
from tidemark.store.heartbeats import COUNTS_S

BASE_S = 10
PATIENCE_MS = 90_000
MOST_BYTES, MOST_DRAWN_MS = 90_000, 100.0
PAGES, SHARE_OF_A_CORE, WATCHED_S = 100, 0.05, 40
WIDE = {"width": 1280, "height": 900}


@contextmanager
def looking(browser: Browser, running: Running, address: str = "", **more: Any) -> Iterator[Page]:
    """A page of its own; an error in it fails the test."""
    context = browser.new_context(**{"viewport": WIDE, **more})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
    page.goto(address or running.page)
    try:
        yield page
        assert not errors, errors
    finally:
        context.close()


def move(page: Page, seconds: float) -> None:
    """Move over the box, as a hand would that follows where it goes while the page is still being built."""
    pad = page.locator("#pad")
    expect(pad).to_be_visible(timeout=PATIENCE_MS)
    box = pad.bounding_box()
    assert box is not None
    until, step = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        pad.hover(position={"x": 5 + step * 9 % (box["width"] - 10), "y": 20}, timeout=PATIENCE_MS)
        step += 1


def rows(page: Page) -> list[list[str]]:
    """The table of intervals that have points, the newest first."""
    every = page.locator("#intervals tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return [row for row in every if len(row) > 1 and row[2] != "0"]


def until(page: Page, found: Any, what: str) -> None:
    """Wait for something on the page."""
    limit = time.monotonic() + PATIENCE_MS / 1000
    while not found():
        assert time.monotonic() < limit, (what, rows(page)[:8], page.locator("#trouble").inner_text())
        page.wait_for_timeout(200)


def begin_of_a_window() -> None:
    """Wait until a window of the base tier has just begun, so that what follows is in one."""
    time.sleep(BASE_S - time.time() % BASE_S + 0.3)


@pytest.mark.timeout(600)
def test_from_the_pointer_to_a_correction(running: Running, browser: Browser) -> None:
    with looking(browser, running) as page:
        move(page, 2)
        source = page.locator("#sent")
        expect(source).to_contain_text("acknowledged", timeout=PATIENCE_MS)
        name = re.search(r"points of (\S+) are", source.inner_text())
        assert name is not None
        expect(page.locator("#list")).to_contain_text(name[1], timeout=PATIENCE_MS)

        page.locator("#find").fill(name[1])
        expect(page.locator("#list li")).to_have_count(1)
        page.locator("#find").press("ArrowDown")
        page.keyboard.press("Home")
        expect(page.locator("#title")).to_contain_text(f"pointer_x of {name[1]}")
        assert name[1] in page.url
        page.locator("#as-table summary").click()
        begin_of_a_window()
        move(page, 4)
        until(page, lambda: any(row[4] != "final" for row in rows(page)), "what came just now may still change")
        page.locator("#hold").click()
        move(page, 3)
        expect(source).to_contain_text("held back")
        picture(page, "held-back")
        before = {row[0] for row in rows(page)}
        until(page, lambda: all(row[4] == "final" for row in rows(page)), "all is settled")
        assert before
        assert before <= {row[0] for row in rows(page)}
        expect(page.locator("#summary")).to_contain_text("0 may still change, 0 were corrected")

        page.locator("#hold").click()
        until(page, lambda: any(row[5] for row in rows(page)), "it was corrected")
        assert {row[0] for row in rows(page)} > before
        expect(page.locator("#corrections tbody tr").filter(has_text=name[1]).first).to_be_visible(timeout=PATIENCE_MS)
        cells = page.locator("#corrections tbody tr").filter(has_text=name[1]).first.locator("td").all_inner_texts()
        was, now = (int(part) for part in cells[5].split(" → "))
        assert now > was > 0
        picture(page, "corrected")
        page.locator("#corrections button").first.click()
        assert "from=" in page.url


@pytest.mark.timeout(300)
def test_where_ingest_is_dead_it_says_so(running: Running, browser: Browser) -> None:
    ingest = running.program("ingest")
    with looking(browser, running) as page:
        complete = page.locator("#complete")
        expect(complete).to_contain_text("behind the clock", timeout=PATIENCE_MS)
        expect(complete).not_to_have_class("late")
        ingest.send(signal.SIGSTOP)
        try:
            pool = make_engine(running.database_url(), 1, 60)
            with transaction(pool) as connection:  # as if it had been silent for so long
                connection.exec_driver_sql(f"UPDATE heartbeats SET at = at - interval '{COUNTS_S} seconds'")
            pool.dispose()
            expect(complete).to_have_class("late", timeout=PATIENCE_MS)
            expect(complete).to_contain_text("silent since")
            picture(page, "silent")
        finally:
            ingest.send(signal.SIGCONT)
        expect(complete).not_to_have_class("late", timeout=PATIENCE_MS)


@pytest.mark.timeout(300)
def test_a_program_that_dies_is_started_again(running: Running) -> None:
    before = running.program("edge")
    assert running.curl() == 200
    before.kill()
    eventually(lambda: running.curl() == 200)
    assert running.program("edge") != before
    assert "edge ended" in running.log.read_text()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
def test_everybody_can_use_it(running: Running, browser: Browser, scheme: str, width: int) -> None:
    assert running.curl() == 200
    with looking(browser, running, color_scheme=scheme, viewport={"width": width, "height": 900}) as page:
        expect(page.locator("#title")).to_contain_text(" of ", timeout=PATIENCE_MS)
        page.locator("#as-table summary").click()
        page.wait_for_timeout(500)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if width == 320 and scheme == "dark":
            picture(page, "narrow-dark")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_it_is_small_quick_and_cheap(running: Running, browser: Browser) -> None:
    assert running.curl() == 200
    drawn = []
    asked: list[str] = []
    for _ in range(5):
        with looking(browser, running, running.page.replace("2+min", "6+h")) as page:
            page.on("request", lambda request: asked.append(request.url))
            expect(page.locator("#title")).to_contain_text(" of ", timeout=PATIENCE_MS)
            drawn.append(float(page.evaluate("document.documentElement.dataset.drawnMs")))
            size = page.evaluate(
                "performance.getEntriesByType('resource').filter(e => e.name.includes('/page/')).reduce((n, e) => n + e.transferSize, "
                "performance.getEntriesByType('navigation')[0].transferSize)"
            )
    print(f"drawn in {drawn} ms, {size} bytes")
    assert statistics.median(drawn) <= MOST_DRAWN_MS
    assert 0 < size <= MOST_BYTES
    # what one page asks for, and what that costs the service
    asked.clear()
    with looking(browser, running, running.page.replace("2+min", "6+h")) as page:
        expect(page.locator("#title")).to_contain_text(" of ", timeout=PATIENCE_MS)
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(WATCHED_S * 1000)
    targets = [f"{urlsplit(url).path}?{urlsplit(url).query}" for url in asked if "/v1/" in url and ":8080" not in url]
    assert 2 <= len(targets) <= 30, targets
    serve = running.program("serve").pid
    rounds = 40
    for target in targets:
        running.get(target)
    before = cpu_s(serve)
    for _ in range(rounds):
        for target in targets:
            running.get(target)
    share = (cpu_s(serve) - before) / rounds / WATCHED_S * PAGES
    print(f"{len(targets)} requests in {WATCHED_S} s; {PAGES} pages cost {share:.1%} of a core")
    assert share <= SHARE_OF_A_CORE


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
