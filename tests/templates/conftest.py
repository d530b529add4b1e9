"""A copy of all that a deployment is made of, to break."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Check = Callable[[Path], Iterator[str]]
Broken = tuple[Check, str, str, str, str]
"""A check, a file, what is changed in it, into what, and what is said of it then."""
PARTS = (
    "templates",
    "terraform",
    "docs",
    "scripts",
    "pipelines",
    "transforms",
    "tidemark",
    "cloudbuild.yaml",
    "pyproject.toml",
    "requirements.lock",
    "setup.py",
    "README.md",
    "LICENSE",
    ".dockerignore",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", ".terraform*"))
        else:
            shutil.copy(ROOT / part, tmp_path / part)
    return tmp_path


def is_found(tree: Path, broken: Broken) -> None:
    """Break a file, and have its check say so."""
    check, name, before, after, said = broken
    path = tree / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    found = list(check(tree))
    assert any(said in text for text in found), found
