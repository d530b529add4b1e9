"""The wheel has every package and the migrations, and works without the source tree beside it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tracked(*within: str) -> list[str]:
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", *within], capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in tracked():  # the build leaves its own files behind
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "build", "--quiet", "--wheel", "--out-dir", target, source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = target.glob("*.whl")
    return made


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert [name for name in tracked("pipelines", "transforms", "tidemark") if name not in names] == []
    assert not any(name.startswith(("tests/", "bench/", "docs/")) for name in names)


def test_it_is_imported_and_run_from_outside_the_tree(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    check = f"""
import sys
sys.path = [{str(target)!r}] + [p for p in sys.path if p and p != {str(ROOT)!r}]
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in type(finder).__module__ + str(finder)]
import pipelines.ingest, tidemark.cli, transforms.source
assert pipelines.ingest.__file__.startswith({str(target)!r}), pipelines.ingest.__file__
from tidemark.store import migrate
from importlib.resources import files
assert (files("tidemark.store.migrations.versions") / "0001_first.py").is_file()
sys.exit(tidemark.cli.main(["verify", "--database_url=postgresql://u:p@127.0.0.1:9/d", "--rollup_dataset=project.dataset"]))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", check], capture_output=True, text=True, cwd=tmp_path, timeout=90, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("Could not compare: The database does not answer")
