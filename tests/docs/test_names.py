"""What the pages name is there: files, modules and what is in them, links and their anchors."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")])
_TOPIC = re.compile(r"tidemark/(PROJECT|cams)\b")
"""Of MQTT."""
_MADE_BY_READERS = ("terraform/terraform.tfvars",)
_ROOMS = ("tidemark", "transforms", "pipelines", "tests", "bench", "templates", "scripts", "docs", "terraform")


def ids(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_files_that_are_named_are_there(page: Path) -> None:
    named = [text for text in code(page) if re.fullmatch(rf"({'|'.join(_ROOMS)})/[\w./-]*", text)]
    named = [name for name in named if name not in _MADE_BY_READERS and not _TOPIC.match(name)]
    missing = [name for name in named if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_modules_and_what_is_in_them_are_there(page: Path) -> None:
    named = [text for text in code(page) if re.fullmatch(r"(tidemark|transforms|pipelines)(\.\w+)+", text)]
    assert [name for name in named if not resolves(name)] == []


def resolves(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert wrong == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    linked = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index)}
    pages = {path for path in (ROOT / "docs").rglob("*.md") if path.name != "README.md"} | {ROOT / "CONTRIBUTING.md"}
    assert pages - linked == set()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_they_fit_on_a_screen(page: str) -> None:
    assert len((ROOT / page).read_text().splitlines()) <= 75
