"""Bodies that are hard to read, by family; each family is a function of a length in bytes."""

from __future__ import annotations

from collections.abc import Callable

GOOD = b'{"project":"p","source":"s","metric":"m","event_time":1769860800000,"value":1}'
HEAD = b'{"project":"p","source":"s","points":['
POINT = b'{"metric":"m","event_time":1769860800000,"value":1}'
BAD_POINT = POINT.replace(b"1}", b'"x"}')
PUBLISHED_US = 1_769_860_810_000_000


def repeated(unit: bytes, size: int) -> bytes:
    """`unit` over and over, cut at `size` bytes."""
    return (unit * (size // len(unit) + 1))[:size]


def _of(unit: bytes, before: bytes = b"", after: bytes = b"") -> Callable[[int], bytes]:
    return lambda size: before + repeated(unit, size - len(before) - len(after)) + after


HOPELESS: dict[str, Callable[[int], bytes]] = {
    "a string of escapes that never closes": _of(b'\\"', b'"'),
    "the same in an object": _of(b'\\"', b'{"a":"'),
    "the same in a batch": _of(b'\\"', HEAD + b'{"metric":"'),
    "escapes in lines that never close": _of(b'{"a":"' + b'\\"' * 200 + b"\n"),
    "JSON in a JSON text, cut": _of(GOOD.replace(b'"', b'\\"'), b'"'),
    "backslashes": _of(b"\\", b'{"a":"'),
    "quotes": _of(b'"'),
    "a quote a line": _of(b'"\n'),
    "names without an object": _of(b'"":'),
    "open arrays": _of(b"["),
    "open objects": _of(b"{"),
    "an open object a line": _of(b"{\n"),
    "objects in objects": _of(b'{"a":'),
    "objects and arrays in turns": _of(b'{"a":['),
    "open objects in a batch": _of(b"{", HEAD),
    "batches in batches": _of(HEAD),
    "points in points": _of(b'{"points":['),
    "batches without a head": _of(b'{"points":[{}]}'),
    "batches without points": _of(b'{"points":[]}'),
    "closed objects": _of(b"}"),
    "brackets that do not match": _of(b"{[}]"),
    "colons and objects": _of(b":{"),
    "empty objects": _of(b"{}"),
    "an array of empty objects": _of(b"{},", b"[", b"{}]"),
    "an array of numbers": _of(b"1,", b"[", b"1]"),
    "a batch of numbers": _of(b"1,", HEAD, b"1]}"),
    "an array of texts": _of(b'"a",', b"[", b"1]"),
    "arrays in a row": _of(b"[1],"),
    "commas": _of(b",", b"["),
    "blanks": _of(b" \n", b"{"),
    "NUL": _of(b"\0"),
    "no UTF-8": _of(b"\xff"),
    "byte order marks": _of(b"\xef\xbb\xbf"),
    "UTF-16": lambda size: b"\xff\xfe" + repeated('{"a":1}\n'.encode("utf-16-le"), size),
    "digits": _of(b"1"),
    "a value of digits": _of(b"1", GOOD[:-2]),
    "constants": _of(b"NaN "),
    "objects of constants": _of(b'{"value":NaN}'),
    "a constant before a string that never closes": _of(b'\\"', b'{"a":NaN,"b":"'),
    "log lines": _of(b'{"level":"info","msg":"hello {x} [y]","ts":1769860800}\n'),
    "lines of prose": _of(b"# comment line of a log\n"),
    "CSV": _of(b"2026-01-01,cams,fps,24.5\n"),
    "line protocol": _of(b"fps,source=a value=24.5 1769860800000000000\n"),
    "strings over lines": _of(b'{"a":"x\ny",'),
    "TAB in strings": _of(b'{"a":"\t"}'),
    "half of a pair": _of(b'{"a":"\\ud800"},', b"[", b"1]"),
    "a batch of bad points": _of(BAD_POINT + b",", HEAD),
}
"""Not a point is in them."""
POINTS: dict[str, Callable[[int], bytes]] = {
    "lines, the last cut": lambda size: repeated(GOOD + b"\n", size)[:-20],
    "lines, then a string that never closes": lambda size: (
        repeated(GOOD + b"\n", size // 2) + b'{"a":"' + repeated(b'\\"', size // 2)
    ),
    "good and broken lines": _of(GOOD + b"\n" + GOOD[:-5] + b"\n"),
    "good and broken, nothing between": _of(GOOD + GOOD[:-5]),
    "attributes with a NUL": _of(GOOD[:-1] + b',"attributes":{"a":"\\u0000"}}\n'),
}
"""Points are, good ones or some that are refused by what is in them: each is looked at."""
