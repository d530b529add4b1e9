"""Selectors as PromQL writes them: which of a project's series they mean."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import promql_parser
import re2

from tidemark.query.problems import ProblemError, bad
from tidemark.wire.labels import parsed

if TYPE_CHECKING:
    from tidemark.query.catalogue import Series

_LONGEST: Final = 4096
_LONGEST_S: Final = 2.0
_LOOKS_LIKE: Final = re.compile(r"\s*(?:[A-Za-z_:][\w:]*\s*)?(?:\{.*\}\s*)?", re.DOTALL)
"""What is not like it is not given to the parser, which needs seconds for thousands of brackets."""
_SOURCE: Final = "source"


class Matcher(NamedTuple):
    """A condition on a label's value."""

    label: str
    holds: Callable[[str], bool]


class Selector(NamedTuple):
    """A parsed one: the metric's name where that is fixed, the source where that is, and whatever else has to hold."""

    name: str | None
    source: str | None
    matchers: tuple[Matcher, ...]


def matching(series: Sequence[Series], matchers: Sequence[Matcher]) -> list[Series]:
    """Those for which all matchers hold; each matcher looks at each value once.

    Raises:
        ProblemError: it takes too long.
    """
    until = time.monotonic() + _LONGEST_S
    seen: list[dict[str, bool]] = [{} for _ in matchers]
    found = []
    for each in series:
        name, labels = parsed(each.metric)
        values = {**labels, "__name__": name, _SOURCE: each.source}
        for matcher, known in zip(matchers, seen, strict=True):
            value = values.get(matcher.label, "")
            holds = known.get(value)
            if holds is None:
                if time.monotonic() > until:
                    raise ProblemError(
                        "too-many-series", "The selector takes too long for so many series: name the metric."
                    )
                holds = known[value] = matcher.holds(value)
            if not holds:
                break
        else:
            found.append(each)
    return found


def parse_selector(text: str) -> Selector:
    """A selector as PromQL writes it.

    Raises:
        ProblemError: it is none.
    """
    if len(text) > _LONGEST or not _LOOKS_LIKE.fullmatch(text):
        raise bad("match", f'`match` has to be a selector, fps{{source=~"gw-.*"}}, of {_LONGEST:,} characters at most.')
    try:
        found = promql_parser.parse(text)
    except ValueError as error:
        raise bad("match", f"`match` is no selector: {str(error)[:300]}.") from None
    if not isinstance(found, promql_parser.VectorSelector) or found.offset is not None or found.at is not None:
        raise bad("match", '`match` has to be a selector and nothing else: fps{source=~"gw-.*"}.')
    if found.matchers.or_matchers:
        raise bad("match", "`match` has no `or`.")
    name, source, matchers = found.name, None, []
    for each in found.matchers.matchers:
        if "\0" in each.value:
            raise bad("match", "`match` has a NUL.")
        if each.op == promql_parser.MatchOp.Equal and each.name == "__name__" and each.value:
            name = each.value
        elif each.op == promql_parser.MatchOp.Equal and each.name == _SOURCE and each.value:
            source = each.value
        matchers.append(Matcher(each.name, _condition(each.op, each.value)))
    if name is not None:
        matchers.append(Matcher("__name__", name.__eq__))
    return Selector(name, source, tuple(matchers))


def _condition(op: Any, value: str) -> Callable[[str], bool]:
    if op == promql_parser.MatchOp.Equal:
        return value.__eq__
    if op == promql_parser.MatchOp.NotEqual:
        return value.__ne__
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 8 << 20  # with less some need a hundred times as long
    options.dot_nl = True  # a dot is any character, as Prometheus has it
    try:
        pattern = re2.compile(value, options)
    except re2.error as error:
        raise bad("match", f"{value[:100]!r} is no regular expression of RE2: {_said(error)}.") from None
    if op == promql_parser.MatchOp.Re:
        return lambda text: pattern.fullmatch(text) is not None
    return lambda text: pattern.fullmatch(text) is None


def _said(error: Exception) -> str:
    found = error.args[0] if error.args else "it cannot be read"
    return (found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found))[:200]
