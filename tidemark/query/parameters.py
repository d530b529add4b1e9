"""Every parameter of every path, as data: the parser, docs/reference/query.md and the OpenAPI document are made from it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from tidemark.query.fold import AGGREGATIONS
from tidemark.query.problems import ProblemError, bad
from tidemark.settings import DAY_S
from tidemark.store.advice import MOST_DAYS

MOST_FIELDS: Final = 2_000
MOST_SERIES: Final = 1_000
_WHOLE: Final = re.compile(r"[0-9]{1,12}")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_ELSEWHERE: Final = {
    "to": "until",
    "end": "until",
    "since": "from",
    "start": "from",
    "step": "interval-sec",
    "period": "interval-sec",
    "interval": "interval-sec",
    "bucket": "interval-sec",
    "maxDataPoints": "max-points",
    "agg": "aggregation",
    "function": "aggregation",
    "name": "metric",
    "timezone": "tz",
    "q": "search",
    "cursor": "after",
}
"""Names that other services have for ours."""


@dataclass(frozen=True)
class Parameter:
    """One of them.

    Attributes:
        name: As it is written.
        help: A sentence.
        parse: Gives the value, or raises `ValueError` with what is needed.
        shape: As JSON Schema has it.
        default: Where it is left out, as it would be written; None: there is none.
        required: It cannot be left out.
        repeats: It may be given several times.
        needs: What is said of it when it is not so.
    """

    name: str
    help: str
    shape: Mapping[str, Any]
    parse: Callable[[str], Any] = str
    default: str | None = None
    required: bool = False
    repeats: bool = False
    needs: str = ""


def whole(low: int, high: int) -> tuple[Callable[[str], int], dict[str, Any], str]:
    """A whole number."""

    def parse(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return parse, {"type": "integer", "minimum": low, "maximum": high}, f"a whole number from {low:,} to {high:,}"


def _of_a_day(text: str) -> int:
    seconds = whole(1, DAY_S)[0](text)
    if DAY_S % seconds:
        raise ValueError
    return seconds


def one_of(*choices: str) -> tuple[Callable[[str], str], dict[str, Any], str]:
    """One of some words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError
        return text

    return parse, {"type": "string", "enum": list(choices)}, f"one of {', '.join(choices)}"


def _fill(text: str) -> str:
    if text in ("null", "none", "previous", "linear"):
        return text
    if not _NUMBER.fullmatch(text) or not -1e150 <= float(text) <= 1e150:
        raise ValueError
    return text


def _made(
    name: str,
    help_: str,
    kind: tuple[Callable[[str], Any], dict[str, Any], str],
    default: str | None = None,
    *,
    repeats: bool = False,
) -> Parameter:
    parse, shape, needs = kind
    return Parameter(name, help_, shape, parse, default, repeats=repeats, needs=needs)


_TEXT: Final = {"type": "string", "minLength": 1}
_TIME: Final = {"type": "string", "examples": ["now-28d", "2026-01-31T12:00:00Z", "1769860800000"]}

PROJECT: Final = Parameter("project", "Whose series; the token's project.", _TEXT, required=True)
METRIC: Final = Parameter("metric", "The metric's whole name, with its labels if it has any.", _TEXT, repeats=True)
SOURCE: Final = Parameter("source", "The source; without it all that have the metric.", _TEXT, repeats=True)
MATCH: Final = Parameter(
    "match",
    'Instead of metric and source: a selector as of PromQL, `fps{source=~"gw-.*",codec="h264"}`, of a metric\'s name without '
    "its labels, its labels, and `source` (a label of that name is `exported_source`). Regular expressions are RE2's, and match all of a value.",
    _TEXT,
)
FROM: Final = Parameter(
    "from",
    "The range's start: RFC 3339 with a zone, seconds or milliseconds since 1970 (a number from 10^11 on is milliseconds), `now`, or "
    "`now-28d` (s, m, h, d, w).",
    _TIME,
    required=True,
)
UNTIL: Final = Parameter("until", "Its end, which is not in it; as `from`.", _TIME, default="now")
ACROSS: Final = _made(
    "across",
    "Fold all series into one line: their sum, average, least, greatest, or how many have points. The average of averages is the "
    "sum of all values by their number.",
    one_of("none", "sum", "avg", "min", "max", "count"),
    "none",
)
QUERY: Final = (
    PROJECT,
    METRIC,
    SOURCE,
    MATCH,
    FROM,
    UNTIL,
    _made("interval-sec", "Length of an interval in seconds.", whole(1, 366 * 86_400 * 100)),
    _made(
        "max-points",
        "Instead of interval-sec: the shortest usual interval with which there are no more intervals than this.",
        whole(1, 11_000),
        "500",
    ),
    _made(
        "aggregation",
        "What is told of an interval's points. `increase` is the sum of the differences between successive points, where a lesser "
        "value begins again at 0; `rate` is that by the second; percentiles lie between the two points around them. These three "
        "read points (percentiles: see `quantiles`), the others rollups where they can.",
        one_of(*AGGREGATIONS),
        "avg",
        repeats=True,
    ),
    _made(
        "quantiles",
        "`sketch`: percentiles come from the sketches of rollups (`--quantiles` of ingest) where intervals are made of their windows "
        "and each of them has one: that takes less, and outlives the points. They are off by `error` of the points around them at "
        "most, each series' own. Elsewhere, and with `exact`, points are read. The answer says which: `sketch` or `exact`.",
        one_of("exact", "sketch"),
        "exact",
    ),
    ACROSS,
    Parameter(
        "fill",
        "What stands where an interval has no points: nothing (`none`, no row of CSV or NDJSON), `null`, the `previous` value (of 10 "
        "intervals before at most), one on the line between its neighbours (`linear`), or a number. Intervals that have not ended "
        "are never filled.",
        {"type": "string", "examples": ["null", "previous", "0"]},
        _fill,
        "null",
        needs="null, none, previous, linear or a number",
    ),
    Parameter(
        "tz",
        "A zone of the IANA database: intervals of whole days begin at its midnights, and are 23 or 25 hours long where a clock is "
        "changed. Only for interval-sec of whole days.",
        {"type": "string", "examples": ["Europe/Berlin"]},
    ),
    _made(
        "align",
        "`epoch`: intervals begin at multiples of their length since 1970 (weeks on Mondays), and the range is widened to whole "
        "ones. `from`: they begin at `from`, the last ends at `until`, and points are read where rollups do not fit.",
        one_of("epoch", "from"),
        "epoch",
    ),
    _made(
        "columns",
        "What else is told of each interval: count, min, max, late-count (points that came after their window's end), revision "
        "(when it was last settled, in microseconds; null where points were read), state (a letter an interval: f final, s settled "
        "early, p provisional, o open, - no points), corrected (how often windows that begin in it were settled again with other points "
        "when they had been final, of the rollups that were read, or of the narrowest; as long as `--corrections_days` keeps that).",
        one_of("count", "min", "max", "late-count", "revision", "state", "corrected"),
        repeats=True,
    ),
)
LIMIT: Final = _made("limit", "Most rows.", whole(1, 10_000), "1000")
AFTER: Final = Parameter("after", "Go on behind this: `next` of the answer before.", _TEXT)
SERIES: Final = (
    PROJECT,
    METRIC,
    SOURCE,
    MATCH,
    Parameter("search", "Only series in whose metric or source this text stands, in any case.", _TEXT),
    LIMIT,
    AFTER,
)
LATEST: Final = (PROJECT, METRIC, SOURCE, MATCH)
POINTS: Final = (
    PROJECT,
    METRIC,
    SOURCE,
    MATCH,
    FROM,
    UNTIL,
    LIMIT,
    AFTER,
    Parameter("attribute", "Only points with this attribute, KEY:VALUE; of a text or a number.", _TEXT, repeats=True),
    _made(
        "downsample",
        "Of each series no more than `points` stored points: `m4` keeps first, last, least and greatest of each stretch of time, "
        "`lttb` those that show the shape (largest triangles).",
        one_of("m4", "lttb"),
    ),
    _made("points", "For downsample.", whole(4, 11_000), "500"),
)
SOURCES: Final = (
    PROJECT,
    _made(
        "order",
        "`late`: those with most late points first; `silent`: those that were not heard for longest.",
        one_of("late", "silent"),
        "silent",
    ),
    LIMIT,
)
CORRECTIONS: Final = (
    PROJECT,
    Parameter("since", "Those made since then; as `from`.", _TIME, default="now-1d"),
    LIMIT,
)
ONLY_PROJECT: Final = (PROJECT,)
ADVICE: Final = (
    PROJECT,
    _made("days", "How many days back to look.", whole(1, MOST_DAYS), "7"),
    Parameter(
        "window-sec",
        "Ask of windows of so many seconds, which divide a day, and not of those of the smallest tier.",
        {"type": "integer", "minimum": 1, "maximum": DAY_S},
        _of_a_day,
        needs="whole seconds that divide a day",
    ),
)


def parsed(parameters: Sequence[Parameter], query: bytes) -> dict[str, Any]:
    """The values of a request's parameters, by name; of those that repeat a list, None where one is left out.

    Raises:
        ProblemError: one is unknown, empty, wrong, missing, or given twice.
    """
    known = {parameter.name: parameter for parameter in parameters}
    found: dict[str, Any] = {}
    for name, text in _pairs(query):
        parameter = known.get(name)
        if parameter is None:
            raise _unknown(name, list(known))
        value = _value(parameter, text)
        if parameter.repeats:
            found.setdefault(name, [])
            if value not in found[name]:
                found[name].append(value)
        elif name in found:
            raise bad(name, f"`{name}` is given twice.")
        else:
            found[name] = value
    for parameter in parameters:
        if parameter.name not in found:
            found[parameter.name] = _default(parameter)
    return found


def _value(parameter: Parameter, text: str) -> Any:
    name = parameter.name
    if not text:
        raise bad(name, f"`{name}` is empty.")
    if "\0" in text:
        raise bad(name, f"`{name}` has a NUL.")
    try:
        return parameter.parse(text)
    except (ValueError, OverflowError):
        raise bad(name, f"`{name}` has to be {parameter.needs}.") from None


def _default(parameter: Parameter) -> Any:
    if parameter.required:
        raise bad(parameter.name, f"`{parameter.name}` is missing.")
    default = None if parameter.default is None else parameter.parse(parameter.default)
    if parameter.repeats:
        return [] if default is None else [default]
    return default


def _pairs(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS, separator="&"
        )
    except UnicodeDecodeError:
        raise ProblemError("bad-parameter", "The query is no UTF-8.") from None
    except ValueError:
        raise ProblemError("bad-parameter", f"The query has more than {MOST_FIELDS:,} parameters.") from None


def _unknown(name: str, known: list[str]) -> ProblemError:
    elsewhere = _ELSEWHERE.get(name)
    near = (
        [elsewhere]
        if elsewhere in known
        else difflib.get_close_matches(name.lower().replace("_", "-")[:64], known, 1, 0.6)
    )
    hint = f"; is it `{near[0]}`?" if near else f": there are {', '.join(known)}."
    return bad(name[:64], f"`{name[:64]}` is unknown{hint}")
