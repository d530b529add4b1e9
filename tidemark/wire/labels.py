"""Labels in a metric's name: `name{a="…",b="…"}`, in one form only, so that one series has one name."""

from __future__ import annotations

import re
from typing import Final

_VALUE: Final = r'(?:[^"\\]|\\[\\"n])+'
_LABEL: Final = rf'[^{{}}=",\\\s]+="{_VALUE}"'
_FORM: Final = re.compile(rf'[^{{}}"\\]+\{{{_LABEL}(?:,{_LABEL})*\}}')
_NAMES: Final = re.compile(rf'([^{{}}=",\\\s]+)="{_VALUE}"')
_PAIRS: Final = re.compile(rf'([^{{}}=",\\\s]+)="({_VALUE})"')
_WRITTEN: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def fault(metric: str) -> str | None:
    r"""What is wrong with a metric's labels; None: nothing, or it has none.

    Right is `name{a="…",b="…"}`: at least one label, sorted by name, each once and not empty; in a value a backslash, a
    quotation mark and a line feed are written as `\\`, `\"` and `\n`, and nothing else is escaped.
    """
    if "{" not in metric:
        return None
    if not _FORM.fullmatch(metric):
        return 'labels are written as name{a="…",b="…"}, without blanks, values not empty, escaped as \\\\, \\" and \\n'
    names = _NAMES.findall(metric[metric.index("{") :])
    if names != sorted(set(names)):
        return "labels must be sorted by their names, each once"
    return None


def labelled(name: str, labels: dict[str, str]) -> str:
    """The metric of a name and labels; those that are empty are left out, as if they were not there."""
    there = sorted((label, value) for label, value in labels.items() if value)
    if not there:
        return name
    return name + "{" + ",".join(f'{label}="{value.translate(_ESCAPES)}"' for label, value in there) + "}"


def parsed(metric: str) -> tuple[str, dict[str, str]]:
    """The name and the labels of a metric that has no `fault`."""
    name, brace, rest = metric.partition("{")
    if not brace:
        return metric, {}
    pairs = _PAIRS.findall(rest)
    return name, {
        label: _WRITTEN.sub(lambda found: "\n" if found[1] == "n" else found[1], value) for label, value in pairs
    }
