"""What a check found: one line each, with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        level: `fail`: it will not work; `warn`: it will, with a consequence; `pass`.
        subject: What was looked at.
        said: What was seen.
        remedy: What to do; empty when nothing.
    """

    level: Literal["pass", "warn", "fail"]
    subject: str
    said: str
    remedy: str = ""


def passed(subject: str, said: str) -> Finding:
    """As it must be."""
    return Finding("pass", subject, said)


def warned(subject: str, said: str, remedy: str) -> Finding:
    """It works, with a consequence."""
    return Finding("warn", subject, said, remedy)


def refused(subject: str, said: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding("fail", subject, said, remedy)


def failed(findings: Iterable[Finding]) -> bool:
    """Whether any of them is a failure."""
    return any(finding.level == "fail" for finding in findings)


def text(findings: Iterable[Finding]) -> str:
    """One line a finding, and a line under it that says what to do."""
    lines = []
    for finding in findings:
        level = finding.level if finding.level == "pass" else finding.level.upper()
        lines.append(f"{level:<5}{finding.subject:<24}{finding.said}")
        if finding.remedy:
            lines.append(f"{'':<29}→ {finding.remedy}")
    return "\n".join(lines)
