"""The shapes of answers, as JSON Schema: what the OpenAPI document says of each path."""

from __future__ import annotations

from typing import Any, Final

from tidemark.query.fold import AGGREGATIONS
from tidemark.query.parameters import ACROSS

Shape = dict[str, Any]
_TEXT: Final[Shape] = {"type": "string"}
_FLAG: Final[Shape] = {"type": "boolean"}
_WHOLE: Final[Shape] = {"type": "integer"}
_NUMBER: Final[Shape] = {"type": "number"}
_TIME: Final[Shape] = {"type": "string", "format": "date-time"}
_LABELS: Final[Shape] = {"type": "object", "additionalProperties": _TEXT}


def _or_null(shape: Shape) -> Shape:
    return {**shape, "type": [shape["type"], "null"]}


def _list(shape: Shape) -> Shape:
    return {"type": "array", "items": shape}


def _object(there: dict[str, Shape], perhaps: dict[str, Shape] | None = None) -> Shape:
    return {"type": "object", "required": list(there), "properties": {**there, **(perhaps or {})}}


_NAMES: Final = {"source": _TEXT, "metric": _TEXT}
_KNOWN: Final = {
    "complete-until": _or_null(_TIME),
    "settled-until": _or_null(_TIME),
    "ingested-until": _or_null(_TIME),
    "ingest": _TEXT,
}
_LATE: Final = {"expected-late": _or_null(_NUMBER)}
_NEXT: Final = {"next": _TEXT}
_SUMMARY: Final = _object({"count": _WHOLE, **dict.fromkeys(("avg", "min", "max"), _or_null(_NUMBER))})
_LINE: Final = _object(
    {},
    {
        **_NAMES,
        "name": _TEXT,
        "labels": _LABELS,
        "across": {"enum": [choice for choice in ACROSS.shape["enum"] if choice != "none"]},
        **dict.fromkeys(AGGREGATIONS, _list(_or_null(_NUMBER))),
        **dict.fromkeys(("late-count", "revision"), _list(_or_null(_WHOLE))),
        "corrected": _list(_WHOLE),
        "state": {"type": "string", "pattern": "^[fspo-]*$"},
        "filled": {"type": "object", "additionalProperties": _list(_WHOLE)},
    },
)
_PROCESS: Final = _object(
    {
        "process": _TEXT,
        "job": _TEXT,
        "at": _TIME,
        "idle": _FLAG,
        "written-publish-time": _or_null(_TIME),
        "watermark": _or_null(_TIME),
    }
)
_SOURCE: Final = _object(
    {
        "source": _TEXT,
        "first-seen": _TIME,
        "last-seen": _TIME,
        "silent-s": _NUMBER,
        "last-event-time": _TIME,
        **dict.fromkeys(("points", "after-window", "after-horizon"), _WHOLE),
        "most-late-s": _NUMBER,
        "histogram": {"type": "object", "additionalProperties": _WHOLE},
    }
)
_STEP: Final = {
    "horizon-s": _NUMBER,
    "complete": {**_NUMBER, "minimum": 0, "maximum": 1},
    "corrections-a-day": _NUMBER,
    "delay-s": _NUMBER,
}
_RUNNING: Final = {"window-sec": _WHOLE, "debounce-s": _NUMBER, "horizon-s": _NUMBER}
SHAPES: Final = {
    "/v1/query": _object(
        {
            "project": _TEXT,
            "from": _TIME,
            "until": _TIME,
            "interval-sec": _WHOLE,
            "as-of": _TIME,
            **_KNOWN,
            "provisional": _list({**_list(_TIME), "minItems": 2, "maxItems": 2}),
            "read": _object({"rollups": _or_null(_WHOLE), "intervals-from-points": _WHOLE}),
            "start": _list(_WHOLE),
            "series": _list(_LINE),
        },
        {
            **_LATE,
            "tz": _TEXT,
            "points-removed-before": _TIME,
            "quantiles": {"enum": ["exact", "sketch"]},
            "error": _NUMBER,
        },
    ),
    "/v1/series": _object(
        {
            "project": _TEXT,
            "series": _list(
                _object(
                    {
                        **_NAMES,
                        "name": _TEXT,
                        "labels": _LABELS,
                        "last-time": _or_null(_TIME),
                        "last-value": _or_null(_NUMBER),
                        "age-s": _or_null(_NUMBER),
                    }
                )
            ),
        },
        _NEXT,
    ),
    "/v1/metrics": _object({"project": _TEXT, "metrics": _list(_object({"metric": _TEXT, "series": _WHOLE}))}),
    "/v1/projects": _object({"projects": _list(_TEXT)}),
    "/v1/latest": _object(
        {
            "project": _TEXT,
            "latest": _list(
                _object({**_NAMES, "time": _or_null(_TIME), **dict.fromkeys(("value", "age-s"), _or_null(_NUMBER))})
            ),
        }
    ),
    "/v1/points": _object(
        {
            "project": _TEXT,
            "from": _TIME,
            "until": _TIME,
            "points": _list(
                _object(
                    {
                        **_NAMES,
                        "time": _TIME,
                        "value": _NUMBER,
                        "publish-time": _TIME,
                        "attributes": {"type": ["object", "null"]},
                    }
                )
            ),
        },
        {**_NEXT, "attributes": _TEXT},
    ),
    "/v1/sources": _object({"project": _TEXT, "sources": _list(_SOURCE)}),
    "/v1/completeness": _object(
        {"project": _TEXT, **_KNOWN, "processes": _list(_PROCESS)},
        {
            **_LATE,
            "as-of": _TIME,
            "behind-s": _or_null(_NUMBER),
            "horizon-s": _NUMBER,
            "oldest-due-s": _NUMBER,
            "corrections-of-the-last-hour": _WHOLE,
        },
    ),
    "/v1/advice": _object(
        {
            "project": _TEXT,
            "windows": _WHOLE,
            "running": _or_null(_object(_RUNNING, _STEP)),
            "targets": _list(_object({"target": _NUMBER, **_STEP})),
            "horizons": _list(_object(_STEP)),
        },
        {
            "as-of": _TIME,
            **dict.fromkeys(("from", "until"), _or_null(_TIME)),
            **dict.fromkeys(("window-sec", "points", "series"), _WHOLE),
            "sampled": _NUMBER,
            "settling-s": _or_null(_NUMBER),
            "points-removed-before": _TIME,
        },
    ),
    "/v1/corrections": _object(
        {
            "project": _TEXT,
            "since": _TIME,
            "corrections": _list(
                _object(
                    {
                        **_NAMES,
                        "interval-sec": _WHOLE,
                        "start": _TIME,
                        "corrected-at": _TIME,
                        "was": _SUMMARY,
                        "is": _SUMMARY,
                    }
                )
            ),
        }
    ),
}
"""By path. There may be more in an answer one day."""
