"""Selectors as PromQL writes them: which of a project's series they mean."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import promql_parser
import re2

from tidemark.query.problems import ProblemError, bad
from tidemark.wire.labels import parsed

if TYPE_CHECKING:
    from tidemark.query.catalogue import Series

_LONGEST: Final = 4096
_LONGEST_S: Final = 2.0
_SLICE_S: Final = 0.005
_PATTERNS: Final = 10
_PROGRAM_BYTES: Final = 64 << 10
"""Of a compiled pattern: so a value takes 0.04 s. One of 400 characters may need megabytes, and 20 s for a value of 1,000."""
_AUTOMATON_BYTES: Final = 2 << 20
"""Of what matches it. With less some need a hundred times as long."""
_TEXT: Final = r""""(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`"""
_LOOKS_LIKE: Final = re.compile(rf"\s*(?:[A-Za-z_:][\w:]*\s*)?(?:\{{(?:[\w\s:,=!~]|{_TEXT})*\}}\s*)?")
"""What is not like it is not given to the parser, which needs seconds for thousands of brackets."""
_PATTERN: Final = re.compile(rf"(=~|!~)\s*({_TEXT})|{_TEXT}")
_SOURCE: Final = "source"
_EXPORTED: Final = "exported_source"
"""A label of that name beside the source, as Prometheus calls it."""


class Matcher(NamedTuple):
    """A condition on a label's value."""

    label: str
    holds: Callable[[str], bool]


class Selector(NamedTuple):
    """A parsed one.

    Attributes:
        name: Of the metric, where that is fixed.
        source: Where that is.
        matchers: All that has to hold.
    """

    name: str | None
    source: str | None
    matchers: tuple[Matcher, ...]


async def matching(series: Sequence[Series], matchers: Sequence[Matcher], turn: asyncio.Lock) -> list[Series]:
    """Those for which all matchers hold; each matcher looks at each value once.

    It is done in the event loop, a slice at a time: threads that let go of the interpreter for each value, as those of RE2
    do, keep the loop from it for longer.

    Args:
        series: To look at.
        matchers: Conditions.
        turn: So that between two slices, of whomever, others are served.

    Raises:
        ProblemError: it takes too long.
    """
    steps, found, spent_s = _steps(series, matchers), [], 0.0
    while True:
        async with turn:
            began = time.monotonic()
            for each in steps:
                if each is not None:
                    found.append(each)
                if time.monotonic() > began + _SLICE_S:
                    break
            else:
                return found
            spent_s += time.monotonic() - began
            if spent_s > _LONGEST_S:
                raise ProblemError(
                    "too-many-series", "The selector takes too long for so many series: name the metric."
                )
            await asyncio.sleep(0)


def _steps(series: Sequence[Series], matchers: Sequence[Matcher]) -> Iterator[Series | None]:
    """Goes through the series, and gives those that are meant; None after each step that may have taken long."""
    seen: list[dict[str, bool]] = [{} for _ in matchers]
    for each in series:
        name, labels = parsed(each.metric)
        values = {**labels, "__name__": name, _SOURCE: each.source}
        if _SOURCE in labels:
            values[_EXPORTED] = labels[_SOURCE]
        for matcher, known in zip(matchers, seen, strict=True):
            value = values.get(matcher.label, "")
            holds = known.get(value)
            if holds is None:
                holds = known[value] = matcher.holds(value)
                yield None
            if not holds:
                yield None
                break
        else:
            yield each


def parse_selector(text: str) -> Selector:
    """A selector as PromQL writes it.

    Raises:
        ProblemError: it is none.
    """
    if len(text) > _LONGEST or not _LOOKS_LIKE.fullmatch(text):
        raise bad("match", f'`match` has to be a selector, fps{{source=~"gw-.*"}}, of {_LONGEST:,} characters at most.')
    patterns: list[tuple[bool, str]] = []

    def put_by(found: re.Match[str]) -> str:
        """The parser would compile it, to nothing that is of use here, and some take it 0.2 s each."""
        if found[1] is None:
            return found[0]
        patterns.append((found[1] == "=~", found[2]))
        return f'="\0{len(patterns) - 1}"'

    try:
        found = promql_parser.parse(_PATTERN.sub(put_by, text))
        values = [_unquoted(literal) for _, literal in patterns]
    except ValueError as error:
        raise bad("match", f"`match` is no selector: {str(error)[:300]}.") from None
    if not isinstance(found, promql_parser.VectorSelector) or found.offset is not None or found.at is not None:
        raise bad("match", '`match` has to be a selector and nothing else: fps{source=~"gw-.*"}.')
    if found.matchers.or_matchers:
        raise bad("match", "`match` has no `or`.")
    if sum("\0" in each.value for each in found.matchers.matchers) != len(patterns):
        raise bad("match", "`match` has a NUL.")
    if len(patterns) > _PATTERNS:
        raise bad("match", f"`match` may have {_PATTERNS} regular expressions.")
    return _selector(found, [_pattern(value, matches) for value, (matches, _) in zip(values, patterns, strict=True)])


def _unquoted(literal: str) -> str:
    found = promql_parser.parse(literal)
    assert isinstance(found, promql_parser.StringLiteral)
    return found.val


def _selector(found: Any, patterns: list[Callable[[str], bool]]) -> Selector:
    name, source, matchers = found.name, None, []
    for each in found.matchers.matchers:
        if "\0" in each.value:
            matchers.append(Matcher(each.name, patterns[int(each.value[1:])]))
            continue
        same = each.op == promql_parser.MatchOp.Equal
        if same and each.name == "__name__" and each.value:
            name = each.value
        elif same and each.name == _SOURCE and each.value:
            source = each.value
        matchers.append(Matcher(each.name, each.value.__eq__ if same else each.value.__ne__))
    if name is not None:
        matchers.append(Matcher("__name__", name.__eq__))
    if all(matcher.holds("") for matcher in matchers):
        raise bad("match", "`match` has to have a condition that an empty text does not meet.")
    return Selector(name, source, tuple(matchers))


def _pattern(value: str, matches: bool) -> Callable[[str], bool]:
    options = re2.Options()
    options.log_errors = False
    options.dot_nl = True  # a dot is any character, as Prometheus has it
    try:
        options.max_mem = _PROGRAM_BYTES
        re2.compile(value, options)
        options.max_mem = _AUTOMATON_BYTES
        pattern = re2.compile(value, options)
    except re2.error as error:
        raise bad("match", f"{value[:100]!r} is no regular expression of RE2: {_said(error)}.") from None
    finally:
        re2.purge()  # it would keep a hundred of them, with all that they have grown to
    return lambda text: (pattern.fullmatch(text) is not None) == matches


def _said(error: Exception) -> str:
    found = error.args[0] if error.args else "it cannot be read"
    return (found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found))[:200]
