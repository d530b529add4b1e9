"""How a pipeline's program speaks to a person."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from tidemark import program
from tidemark.settings import Setting


def reported(main: Callable[[], int]) -> int:
    """Run a program; a foreseen failure becomes one sentence and an exit status.

    Returns:
        As `tidemark.program.reported`.
    """
    # Beam announces every server it starts as a warning, and a failing bundle three times; its worker prints the traceback anyway
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # a connection that broke is told by whoever used it
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    return program.reported(main)


def help_text(description: str | None, settings: Sequence[Setting]) -> str:
    """Every setting, its sentence, its default and its environment variable."""
    lines = [description or "", "Options (Beam's own are taken as well; --runner=DirectRunner is the default):", ""]
    for setting in settings:
        default = "" if setting.default is None else f" [{setting.default}]"
        lines += [f"  --{setting.name}{default}", f"      {setting.help} ({setting.variable})"]
    return "\n".join(lines)
