"""Where tokens are needed the page asks for one, and keeps it for the tab; and names that would be markup stay text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from tests.query.served import MINE, OTHERS, START_S, THEIR_OWN, Serving, fill, serving
from tests.store.conftest import server, url
from tidemark.edge.tokens import line_of, new_token
from tidemark.store.connection import make_engine
from tidemark.store.owing import Policy
from tidemark.store.series import SeriesCache
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

__all__ = ["server", "url"]
TOKEN = new_token()
NASTY = "<img src=x onerror=alert(1)>\"'&\u202etxt"


@pytest.fixture(scope="module")
def served(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    fill(url)
    pool = make_engine(url, 1, 60)
    made = np.array([(0, START_S * 1_000_000, START_S * 1_000_000, 1.0)], POINT)
    Writer(pool, SeriesCache(pool), Policy(60, 0, 0)).write(Block([SeriesKey(MINE, NASTY, NASTY)], made))
    pool.dispose()
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(line_of(TOKEN, MINE, ["read"]) + "\n")
    with serving(f"--database_url={url}", f"--tokens=file:{tokens}") as made_:
        yield made_


@pytest.mark.timeout(180)
def test_a_token_is_asked_for_and_kept_for_the_tab(served: Serving, browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(served.url + "/")
    ask = page.locator("#ask")
    for wrong in ("", "tm_wrong"):
        expect(ask).to_be_visible()
        page.keyboard.press("Escape") if not wrong else page.locator("#token").fill(wrong)
        if wrong:
            page.locator("#ask button").click()
    expect(ask).to_be_visible()
    page.locator("#token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_contain_text(" of ")
    expect(page.locator("#project")).to_have_value(MINE)
    text = page.locator("body").inner_text() + page.content()
    assert OTHERS not in text
    assert THEIR_OWN not in text
    assert TOKEN not in page.content()
    assert TOKEN not in page.url
    assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
    page.reload()
    expect(page.locator("#title")).to_contain_text(" of ")
    expect(ask).to_be_hidden()
    page.locator("#advice summary").click()
    expect(page.locator("#advised")).to_contain_text("windows of", timeout=30_000)
    expect(page.locator("#horizons")).to_contain_text("runs now")
    expect(page.locator("#horizons")).to_contain_text("for 99.9 %")
    other = context.new_page()
    other.goto(served.url + "/")
    expect(other.locator("#ask")).to_be_visible()
    given = context.new_page()
    given.goto(f"{served.url}/?project={MINE}#read={TOKEN}")
    expect(given.locator("#title")).to_contain_text(" of ")
    assert TOKEN not in given.url
    context.close()


@pytest.mark.timeout(180)
def test_a_name_is_never_markup(served: Serving, browser: Browser, tmp_path: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    said: list[str] = []
    heard: list[str] = []
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("response", lambda answer: heard.append(f"{answer.status} {answer.url}"))
    page.on("requestfailed", lambda request: heard.append(f"failed {request.url}: {request.failure}"))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.goto(f"{served.url}/?project={MINE}&range=7+d#read={TOKEN}")
    row = page.locator("#list li").filter(has_text="onerror")
    try:
        expect(row).to_have_count(1, timeout=90_000)
    except AssertionError as error:
        shown = page.locator("body").inner_text()
        raise AssertionError("\n".join([str(error), *heard, shown])) from None
    row.click()
    expect(page.locator("#title")).to_contain_text(f"{NASTY} of {NASTY}")
    expect(page.locator("#summary")).to_contain_text("1 intervals")
    page.reload()
    expect(page.locator("#title")).to_contain_text(f"{NASTY} of {NASTY}")
    assert page.locator("img").count() == 0
    assert said == []
    context.close()


@pytest.mark.timeout(180)
def test_where_the_service_is_away_it_says_so_and_goes_on(url: str, browser: Browser) -> None:
    fill(url)
    context = browser.new_context()
    page = context.new_page()
    with serving(f"--database_url={url}") as first:
        page.goto(f"{first.url}/?range=10+min")
        expect(page.locator("#title")).to_contain_text(" of ")
    expect(page.locator("#complete")).to_have_class("late", timeout=30_000)
    expect(page.locator("#complete")).to_contain_text("cannot be reached")
    expect(page.locator("#trouble")).to_be_visible()
    with serving(f"--database_url={url}", f"--http_port={first.port}"):
        expect(page.locator("#trouble")).to_be_hidden(timeout=30_000)
        expect(page.locator("#complete")).to_contain_text("behind the clock", timeout=30_000)
    context.close()
