from __future__ import annotations

import os
from collections.abc import Iterator

# a child that is forked while gRPC's threads are at work dies in gRPC's handlers now and then, before it is what it shall be
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

import hypothesis
import pytest

from tidemark.logs import REPEATS

hypothesis.settings.register_profile(
    "everyday",
    deadline=None,
    max_examples=int(os.environ.get("TIDEMARK_TEST_EXAMPLES", "60")),
    derandomize=True,
)
hypothesis.settings.load_profile("everyday")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the fault scenarios at their full durations")


@pytest.hookimpl(trylast=True)  # after the shuffle
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "integration" not in item.path.parts)  # the long ones first, so that no worker idles
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="the full duration: run with --long")
    for item in items:
        if "long" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _no_settings_left_behind() -> Iterator[None]:
    """A program that is run in this process tells its workers by the environment where the database is."""
    before = set(os.environ)
    yield
    for name in set(os.environ) - before:
        if name.startswith("TIDEMARK_"):
            del os.environ[name]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TIDEMARK_") and name not in ("TIDEMARK_TEST_EXAMPLES", "TIDEMARK_POSTGRES_BIN"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _nothing_was_said_before() -> None:
    REPEATS.forget()
