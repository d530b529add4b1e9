"""`/v1/advice`: what another horizon would do, as `tidemark advise` says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tidemark.query.answers import shown
from tidemark.query.database import Database
from tidemark.store.advice import SET_WORK_MEM, Advice, Question, Step, advice, counting, ground, ground_sql
from tidemark.store.expressions import numbered
from tidemark.store.horizons import TARGETS, advice_sql

EFFORT: Final = 0.5
"""Of what the command reads, since others wait."""
STEP: Final = ("horizon-s", "complete", "corrections-a-day", "delay-s")
_GROUND: Final = ground_sql(numbered)
_ADVICE: Final = advice_sql(numbered)


async def advised(database: Database, project: str, only: Sequence[str], window_s: int | None, days: int) -> Any:
    """The answer.

    Args:
        database: Asked.
        project: Whose points.
        only: Of these sources; none: of all.
        window_s: Length of a window; None: that which runs.
        days: So many, up to now.
    """
    sources = list(only) or None
    found = ground(tuple(await database.row(_GROUND, *counting(project, sources, days, EFFORT))))
    if found is None:
        return {"project": project, "windows": 0, "running": None, "targets": [], "horizons": []}
    question = Question(found, project, sources, window_s, days, EFFORT)
    _, row = await database.rows_together((SET_WORK_MEM, ()), (_ADVICE, question.arguments()))
    return _told(advice(question, tuple(row)))


def _told(known: Advice) -> dict[str, Any]:
    question, ground_ = known.question, known.question.ground
    settings = ground_.settings
    running = _step(known.running) if known.running else {"horizon-s": settings.horizon_s}
    told: dict[str, Any] = {
        "project": question.project,
        "as-of": shown(ground_.now),
        "from": shown(known.start),
        "until": shown(known.until),
        "window-sec": question.width_s,
        "points": known.points,
        "series": known.series,
        "sampled": round(known.sampled, 6),
        "windows": known.pairs,
        "settling-s": ground_.settling_s,
        "running": {"window-sec": settings.tiers_s[0], "debounce-s": settings.debounce_s, **running},
        "targets": [{"target": target, **_step(step)} for target, step in zip(TARGETS, known.targets, strict=False)],
        "horizons": [_step(step) for step in known.steps],
    }
    if ground_.removed_before is not None:
        told["points-removed-before"] = shown(ground_.removed_before)
    return told


def _step(step: Step) -> dict[str, float]:
    return dict(zip(STEP, (step.horizon_s, *(round(value, 6) for value in step[1:])), strict=True))
