"""A copy of all that a deployment is made of, to break."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
