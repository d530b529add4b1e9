"""What cannot be the value of a parameter, as it stands in a request; and SQL, which may be one."""

from __future__ import annotations

import base64

from tidemark.query.parameters import Parameter

NO_TEXT = ["%00", "a%00b", "%ff%fe", "%c3", "%ed%a0%80", "%f8%88%80%80%80", "a%80"]
NO_WHOLE = ["-1", "+1", "1.5", "1e3", "0x10", "1_0", "%201", "1%20", "1%0a", "nan", "9" * 13, "9" * 5000, "%d9%a3", "a"]
NO_CHOICE = ["nope", "AVG", "avg,sum", "none%20", "%27avg%27", "a" * 8000]
NO_TIME = [
    "2026-01-31T12:00:00",
    "2026-01-31",
    "2026-02-30T00:00:00Z",
    "2026-01-31T24:00:00Z",
    "2026-01-31T12:00:60Z",
    "2026-01-31T12:00:00+01:00",
    "2026-01-31T12:00:00%2B24:00",
    "2026-01-31T12:00:00Z%0a",
    "1969-12-31T23:59:59Z",
    "10000-01-01T00:00:00Z",
    "%d9%a3",
    "-1",
    "1.5",
    "1e9",
    "9" * 15,
    "9" * 8000,
    "nan",
    "infinity",
    "yesterday",
    "now+1d",
    "now-1y",
    "now-1.5d",
    "now-999999999w",
    "NOW",
]
NO_FILL = ["nan", "-inf", "1e151", "1e999", "0x1", "1_0", "%201", "%d9%a3", "zero", "1,5", "1" * 8000]
NO_ZONE = [
    "Europe",
    "../../etc/passwd",
    "/etc/localtime",
    "europe/berlin",
    "Europe/Berlin/",
    "%20",
    "a" * 8000,
    "+01:00",
]
NO_SELECTOR = [
    "fps{",
    "rate(fps[5m])",
    "1",
    "{}",
    "fps{lens=~%22(%22}",
    "fps{source=%22%5cx00%22}",
    "{__name__=%22a%5cx00%22}",
    "fps{lens!=%22%5cu0000%22}",
    "fps{lens=%22%5cud800%22}",
    "(" * 4000,
    "fps{lens=%22" + "x" * 8000 + "%22}",
]
NO_CURSOR = (
    ["=", "A", "AAAA", "%c3%a9", "a" * 8000]
    + [
        base64.urlsafe_b64encode(text).decode().rstrip("=")
        for text in (
            b"[]",
            b"{}",
            b"null",
            b"[1]",
            b"[null,null]",
            b"[1.5,1]",
            b"[true,1]",
            b'["a"]',
            b'["a",1]',
            b'["a","\xff"]',
        )
    ]
    + [base64.urlsafe_b64encode(rb'["a\u0000","b"]').decode(), base64.urlsafe_b64encode(rb'["\ud800","b"]').decode()]
)
SQL = [
    "' OR '1'='1",
    "'; DROP TABLE points; --",
    "\\'; DELETE FROM series; --",
    "1; SELECT pg_sleep(5)",
    "' UNION SELECT project, source, metric FROM series --",
    "'||(SELECT string_agg(metric, ',') FROM series)||'",
    "$1",
    "$9",
    "%s",
    "%(project)s",
    "{0}",
    "{}",
    "%",
    "_",
    "\\",
    '"',
    "') OR true --",
    "/* */",
    "E'\\x27'",
    "\u02bc OR 1=1",
]
OTHERS = {
    "fill": NO_FILL,
    "tz": NO_ZONE,
    "match": NO_SELECTOR,
    "after": NO_CURSOR,
    "attribute": ["camera", ":", ":x"],
    **dict.fromkeys(("from", "until", "since"), NO_TIME),
}


def wrong(parameter: Parameter) -> list[str]:
    """What cannot be the value of this one."""
    found = [*NO_TEXT, *OTHERS.get(parameter.name, [])]
    if parameter.shape["type"] == "integer":
        low, high = parameter.shape["minimum"], parameter.shape["maximum"]
        found += [*NO_WHOLE, str(low - 1), str(high + 1)]
    elif "enum" in parameter.shape:
        found += NO_CHOICE
    return found
