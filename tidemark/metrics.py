"""Every metric of the pipeline, as data: name, kind, unit and one sentence.

Names are stable: dashboards, alerts and the tests of both rest on them. The counters of Beam, the Prometheus endpoint and
the reference page are made from this list, and nothing can be counted that is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tidemark.wire.reasons import Reason


class Kind(StrEnum):
    """What a metric is."""

    COUNTER = "counter"
    GAUGE = "gauge"
    DISTRIBUTION = "distribution"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: With its unit as a suffix where it has one.
        kind: A counter only grows; a gauge is the latest value; a distribution is of many values.
        help: What it counts or measures.
        bounds: Of a distribution's buckets, upper and inclusive.
        labels: Of a counter that only Prometheus has. An engine's metrics have none, and names made of what senders say would be
            as many as they like.
    """

    name: str
    kind: Kind
    help: str
    bounds: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()


LATENESS_S: Final = {
    "within_1s": 1,
    "within_10s": 10,
    "within_1m": 60,
    "within_10m": 600,
    "within_1h": 3600,
    "within_6h": 21_600,
    "within_1d": 86_400,
}
"""Each bucket of lateness counts what is above the bound before it, up to its own; negative is within 1 s."""
LATENESS: Final = (*LATENESS_S, "later")
PANES: Final = ("early", "on_time", "late")
PROJECTS_APART: Final = 100
"""Whatever a sender calls its project, so many time series a reason there are at most, in one process."""
OTHER_PROJECTS: Final = "other"
_REASONS: Final = [reason.value for reason in Reason if reason is not Reason.REFUSED_BY_BIGQUERY]
"""Of points; what BigQuery refuses is rows."""
_MILLISECONDS: Final = (5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0)
_POINTS: Final = (1.0, 10.0, 100.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0)


def _counters(*some: tuple[str, str]) -> list[Metric]:
    return [Metric(name, Kind.COUNTER, text) for name, text in some]


_LIST: Final = [
    *_counters(
        ("messages", "Messages pulled; not counted where the engine has a reader of its own."),
        (
            "acknowledged",
            "Messages acknowledged by the pipeline's own reader; between bundles, so of engines only local runs have it.",
        ),
        (
            "event_time_attribute_missing",
            "Messages without a usable event_time attribute; their publish time is taken.",
        ),
        (
            "mapping_filtered",
            "Values for which the mapping has no output. They are no points and no dead letters.",
        ),
        ("received", "Points received, dead letters included; an undecodable message counts one."),
        ("inserted", "Points stored that were not there."),
        ("overwritten", "Points stored over an earlier one of the same series and event time."),
        ("ignored", "Points that change nothing: repetitions, and what was overwritten before it came."),
        ("dead_lettered", "Points and messages that can never be accepted; kept with their reason."),
        *((f"dead_lettered_{reason}", f"Of these, for the reason {reason}.") for reason in _REASONS),
        ("late_after_window", "Points published after the end of their window: its on-time preview lacked them."),
        ("late_after_horizon", "Points published after the horizon of their window: its first settling lacked them."),
        *((f"lateness_{name}", f"Points with a lateness {name.replace('_', ' ')}.") for name in LATENESS),
        ("beyond_previews", "Points too late for a preview."),
        ("previews", "Preview rows appended to BigQuery."),
        *((f"previews_{pane}", f"Of these, {pane.replace('_', ' ')}.") for pane in PANES),
        ("previews_unchanged", "Preview rows not appended, since BigQuery has them already."),
        ("preview_blocks_unreadable", "Blocks in the engine's state that another version wrote; previews lack them."),
        ("previews_dropped", "Preview rows dropped, since BigQuery could not take them."),
        ("archive_text_bytes", "Loading archives: bytes of their text that were read, after unpacking."),
        ("archive_parts", "Loading archives: parts of files that are through."),
        ("archive_damages", "Loading archives: places that could not be read."),
        ("settled", "Settled rows appended to BigQuery."),
        ("corrected", "Of these, how many replace a final row, settled after its horizon, and differ from it."),
        ("refreshed", "Of these, how many replace a row of a window that was still open, and differ from it."),
        ("settled_deferred", "Settled rows that BigQuery could not take; their marks bring them again."),
        ("rollups_refused", "Rollup rows that BigQuery refuses for what they contain."),
        ("append_failures", "Appends to BigQuery that were given up."),
        ("settle_looks", "Looks for due marks that were answered."),
        ("due_age_s", "Sum, over these, of the age of the oldest due mark in seconds; the mean is their quotient."),
        ("settle_failures", "Looks for due marks that failed."),
        ("retries_unavailable", "Attempts repeated because a service did not answer."),
        ("retries_misconfigured", "Attempts repeated because something waits for a person."),
        ("sources_not_noted", "Times that what was seen of sources could not be written."),
        ("heartbeats_missed", "Times that a process could not write that it reads."),
        ("restarts", "Local runs: times that the pipeline failed and was started again."),
    ),
    Metric(
        "dead_lettered_by_project",
        Kind.COUNTER,
        "What dead_lettered counts, by project, as far as one can be read, and reason; and the settled rows that BigQuery refuses, one each. The "
        f"first {PROJECTS_APART} projects of a process are told apart, what is of further ones is of `{OTHER_PROJECTS}`.",
        labels=("project", "reason"),
    ),
    Metric("watermark", Kind.GAUGE, "The watermark in seconds since 1970; now less this is its lag. Own reader only."),
    Metric(
        "oldest_due_mark_s",
        Kind.GAUGE,
        "Age of the oldest due mark in seconds: how far behind settling is. While looks fail it grows with the clock.",
    ),
    Metric(
        "commit_ms", Kind.DISTRIBUTION, "From a block's first attempt to its commit, in milliseconds.", _MILLISECONDS
    ),
    Metric("append_ms", Kind.DISTRIBUTION, "One append to BigQuery, in milliseconds.", _MILLISECONDS),
    Metric("block_points", Kind.DISTRIBUTION, "Points of a block.", _POINTS),
]
METRICS: Final = {metric.name: metric for metric in _LIST}
NAMESPACE: Final = "tidemark"
"""Of Beam's metrics, and the prefix in Prometheus."""
