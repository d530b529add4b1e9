"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

EXAMPLES: Final = 10
"""Differences told in words."""


@dataclass
class Report:
    """What was compared and what was found."""

    due_marks: int = 0
    pending_marks: int = 0
    overdue_looks: int = 0
    points: int = 0
    rollups: int = 0
    rollups_empty: int = 0
    rollups_differ: int = 0
    warehouse_rows: int = 0
    warehouse_differ: int = 0
    ledger_unbalanced: int = 0
    ledger_off_by: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def rollups_pending(self) -> int:
        """Rollups that have points and were not held against BigQuery: their windows are owed a settling."""
        return max(0, self.rollups - self.rollups_empty - self.warehouse_rows)

    @property
    def passed(self) -> bool:
        """Nothing is owed and nothing differs."""
        return not (
            self.due_marks
            or self.rollups_differ
            or self.warehouse_differ
            or self.ledger_unbalanced
            or self.ledger_off_by
        )

    def example(self, text: str) -> None:
        """Keep the first few differences in words."""
        if len(self.examples) < EXAMPLES:
            self.examples.append(text)


def _others(report: Report) -> str:
    """Why there are fewer rows than rollups."""
    others = [
        f"{number:,} more {why}"
        for number, why in (
            (report.rollups_pending, "are owed a settling, so not compared"),
            (report.rollups_empty, "have lost their points, so not shown"),
        )
        if number
    ]
    return f"; {', '.join(others)}" if others else ""


def text(report: Report) -> str:
    """The report for a person."""
    lines = [
        f"points           {report.points:>12,}   off the ledger by {report.ledger_off_by:,}",
        f"settled rollups  {report.rollups:>12,}   {report.rollups_differ:,} differ from a fresh fold",
        f"BigQuery rows    {report.warehouse_rows:>12,}   {report.warehouse_differ:,} differ from the store{_others(report)}",
        f"marks due        {report.due_marks:>12,}   {report.pending_marks:,} not yet due",
        *(f"  {example}" for example in report.examples),
        "PASS" if report.passed else "FAIL",
    ]
    return "\n".join(lines)
