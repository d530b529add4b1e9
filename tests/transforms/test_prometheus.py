"""The endpoint that Prometheus scrapes, over HTTP."""

from __future__ import annotations

import socket
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidemark.metrics import METRICS, NAMESPACE, OTHER_PROJECTS, PROJECTS_APART, Kind
from tidemark.store.write import Written
from tidemark.wire.block import Block, DeadLetter
from tidemark.wire.reasons import Reason
from tidemark.wire.summary import POINT
from transforms import counters, prometheus
from transforms.counters import count, gauge, observe
from transforms.write_raw import count_written


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def scraped(port: int) -> dict[tuple[str, str], float]:
    """(sample, its le) to value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_counter_is_there_and_grows() -> None:
    port = prometheus.serve(prometheus.Endpoint(free_port()))
    assert port is not None
    before = scraped(port)
    names = {f"{NAMESPACE}_{m.name}_total" for m in METRICS.values() if m.kind is Kind.COUNTER and not m.labels}
    assert names <= {name for name, _ in before}
    count("inserted", 7)
    gauge("oldest_due_mark_s", 2.5)
    for value in (5, 6, 1e9):
        observe("commit_ms", value)
    after = scraped(port)
    assert after[f"{NAMESPACE}_inserted_total", ""] - before[f"{NAMESPACE}_inserted_total", ""] == 7
    assert after[f"{NAMESPACE}_oldest_due_mark_s", ""] == 2.5

    def grown(bound: str) -> float:
        name = f"{NAMESPACE}_commit_ms_bucket", bound
        return after[name] - before.get(name, 0)

    assert [grown(bound) for bound in ("5.0", "10.0", "10000.0", "+Inf")] == [1, 2, 2, 3]


def test_dead_letters_are_counted_by_project_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "_projects", set())
    monkeypatch.setattr(counters, "_by_project", {})
    for number in range(3 * PROJECTS_APART):
        for project, points in ((f"p{number}", 2), ("p0", 1), ("", 1), (None, 1)):
            counters.count_by_project("dead_lettered_by_project", points, project, Reason.NOT_JSON)
    counters.count_by_project("dead_lettered_by_project", 5, "p1", Reason.BAD_VALUE)
    port = prometheus.serve(prometheus.Endpoint(free_port()))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    (family,) = [one for one in families if one.name == "tidemark_dead_lettered_by_project"]
    found = {
        (sample.labels["project"], sample.labels["reason"]): sample.value
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    assert len(found) == PROJECTS_APART + 3
    assert found["p0", "not_json"] == 2 + 3 * PROJECTS_APART
    assert found["p99", "not_json"] == 2
    assert found[OTHER_PROJECTS, "not_json"] == 2 * 2 * PROJECTS_APART
    assert found["", "not_json"] == 2 * 3 * PROJECTS_APART
    assert found["p1", "bad_value"] == 5


@pytest.mark.parametrize(("project", "data"), [("cams", b'{"project": "cams"}'), ("", b"{")])
def test_what_is_written_is_counted_by_the_project_of_its_letter(
    monkeypatch: pytest.MonkeyPatch, project: str, data: bytes
) -> None:
    monkeypatch.setattr(counters, "_by_project", {})
    letter = DeadLetter("m", -1, data, {}, "decode", Reason.NOT_JSON, "no", 1, 3)
    written = Written(np.zeros(0, POINT), 0, 0, 0, [letter])
    count_written(Block([], written.points, None, [letter]), written)
    assert counters.by_project("dead_lettered_by_project") == {(project, "not_json"): 3}


def test_a_second_process_takes_the_next_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(prometheus, "_serving", {})
        found = prometheus.serve(prometheus.Endpoint(port))
        assert found is not None
        assert found > port
        assert prometheus.serve(prometheus.Endpoint(port)) == found, "once a process"


def test_none_is_served_unless_asked_for(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prometheus.serve(prometheus.NOWHERE) is None
    assert not caplog.records
    monkeypatch.setattr(prometheus, "PROCESSES", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert prometheus.serve(prometheus.Endpoint(taken.getsockname()[1])) is None
    assert "--metrics_port" in caplog.text


def test_a_name_that_is_not_in_the_list_is_an_error() -> None:
    with pytest.raises(KeyError):
        count("insertd")
    with pytest.raises(TypeError, match="is a gauge, not a counter"):
        count("watermark")
    with pytest.raises(TypeError, match="has labels"):
        count("dead_lettered_by_project")
    with pytest.raises(TypeError, match="has no labels"):
        counters.count_by_project("inserted", 1, "p", "r")
