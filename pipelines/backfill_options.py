"""Options of `pipelines.backfill`, and the files it is given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.options import Parser, check_runner, known_parser, public
from tidemark.errors import UsageError
from tidemark.settings import BACKFILL, INGEST, Values, flag, read, refuse_unknown, require

_OURS: Final = {setting.name: setting for setting in BACKFILL}
_OTHERS: Final = frozenset(setting.name for setting in INGEST) - _OURS.keys()
_BEAM_HAS: Final = frozenset({"dry_run"})
"""As an option of Dataflow's, which means something else; it never gets so far."""
_FLAGS: Final = ("true", "false", "1", "0")
_REST: Final = "--"
"""What stands behind it are files, whatever they are called."""


class BackfillOptions(PipelineOptions):
    """The settings that only a backfill has, as pipeline options."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        for name in _OURS.keys() - {setting.name for setting in INGEST} - _BEAM_HAS:
            parser.add_argument(f"--{name}", help=argparse.SUPPRESS)


def parse(argv: Sequence[str]) -> tuple[PipelineOptions, Values, list[str]]:
    """Beam's options, Tidemark's checked values, and the files.

    Raises:
        UsageError: an option is unknown, missing or wrong, or there is no file.
    """
    given, files = _apart(argv)
    known_parser().refuse_unknown(given)
    refuse_unknown()
    parser = Parser(add_help=False, allow_abbrev=False)
    for setting in BACKFILL:
        parser.add_argument(f"--{setting.name}")
    own, beams = parser.parse_known_args(given)
    if other := next((one for one in beams if one[2:].partition("=")[0] in _OTHERS), None):
        raise UsageError(f"{other.partition('=')[0]} is an option of pipelines.ingest, and means nothing here.")
    if not files:
        raise UsageError("A file is missing: give paths, patterns such as 'old/*.jsonl.zst', gs:// addresses, or -.")
    values = read(BACKFILL, vars(own))
    options = PipelineOptions([*beams, *public(values, [one for one in BACKFILL if one.name not in _BEAM_HAS])])
    FileSystems.set_options(options)  # files are looked for before a pipeline does it
    if not values.dry_run:
        require(values, "rollup_dataset")
        check_runner(options, values, streaming=False)
    return options, values, files


class _Argument(str):
    """Told from another one that reads the same by being itself: a file may be called like an option's value."""

    __slots__ = ()


def _apart(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options with their values, and files: what no option takes."""
    arguments = list(argv)
    end = arguments.index(_REST) if _REST in arguments else len(arguments)
    given = [_Argument(one) for one in _spelt(arguments[:end])]
    files = [one for one in known_parser().parse_known_args(given)[1] if one == "-" or not one.startswith("-")]
    options = [str(one) for one in given if not any(one is file for file in files)]
    return options, [*map(str, files), *arguments[end + 1 :]]


def _spelt(argv: Sequence[str]) -> list[str]:
    """Our own options as Beam spells them: `--dry-run` is `--dry_run=true`."""
    made = []
    for place, argument in enumerate(argv):
        name, equals, value = argument[2:].partition("=") if argument.startswith("--") else ("", "", "")
        name = name.replace("-", "_")
        setting = _OURS.get(name)
        if setting is None:
            made.append(argument)
        elif setting.parse is flag and not equals and not _says(argv[place + 1 : place + 2]):
            made.append(f"--{name}=true")
        else:
            made.append(f"--{name}{equals}{value}")
    return made


def _says(follows: Sequence[str]) -> bool:
    """Whether what follows a flag is its value, and no file."""
    return any(one.lower() in _FLAGS for one in follows)
