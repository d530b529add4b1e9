"""The endpoint that Prometheus scrapes, over HTTP."""

from __future__ import annotations

import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidemark.metrics import METRICS, NAMESPACE, Kind
from transforms import prometheus
from transforms.counters import count, gauge, observe


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
    counters = {f"{NAMESPACE}_{m.name}_total" for m in METRICS.values() if m.kind is Kind.COUNTER}
    assert counters <= {name for name, _ in before}
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
