"""Which parts of which files are to be loaded."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError

from tidemark.archive.damage import DamagedError
from tidemark.archive.identity import fingerprint
from tidemark.archive.kinds import HEAD_BYTES, Kind, kind_of
from tidemark.archive.parts import Part, parts_of
from tidemark.archive.peek import exactly
from tidemark.archive.reader import chunks
from tidemark.errors import MisconfiguredError, UsageError
from tidemark.store.imports import Known
from transforms.archive import ArchivePart
from transforms.archive_files import STANDARD, STANDARD_INPUT, opened

_PATTERN: Final = ("*", "?", "[")
_SCHEME: Final = "://"


class Archive(NamedTuple):
    """A file that is to be loaded.

    Attributes:
        file: Its path or address.
        size: Bytes; None: not known.
        parts: It, in parts.
    """

    file: str
    size: int | None
    parts: list[ArchivePart]

    @property
    def name(self) -> str:
        """By which it is remembered."""
        return self.parts[0].name

    @property
    def fingerprint(self) -> str:
        """Of its content."""
        return self.parts[0].fingerprint


def planned(given: Sequence[str], *, remote: bool) -> list[Archive]:
    """What the files that were given are, each once.

    Args:
        given: Paths, patterns, addresses; `-` for standard input.
        remote: They are read on other machines.

    Raises:
        UsageError: there is no such file, it cannot be read here, or it is nothing that can be loaded.
    """
    found = list(dict.fromkeys(file for one in given for file in _matching(one)))
    if remote and (here := next((file for file in found if _SCHEME not in file), None)):
        raise UsageError(f"{here} is on this machine, and is to be read on others: put it into a bucket.")
    return [_archive(file) for file in found]


def size_of(archives: Sequence[Archive]) -> int | None:
    """Bytes of all of them, as stored; None: one's are not known."""
    sizes = [archive.size for archive in archives]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def unfinished(
    archives: Iterable[Archive], known: Iterable[Known], *, again: bool
) -> Iterator[tuple[Archive, Known | None]]:
    """Each file, with what is known of it when all of it is loaded.

    Raises:
        UsageError: one of them has changed since it was begun, and is not to be loaded again.
    """
    of = {one.file: one for one in known}
    for archive in archives:
        before = of.get(archive.name)
        if before is not None and before.fingerprint != archive.fingerprint and not again:
            raise UsageError(
                f"{archive.file} has changed since it was loaded on {before.started_at:%Y-%m-%d}: give --again to load it"
                " from its beginning; what is stored is not stored twice."
            )
        # of standard input only the beginning is known: more may follow what came before
        may_grow = archive.file == STANDARD_INPUT
        done = (
            before is not None and before.through and before.parts == len(archive.parts) and not again and not may_grow
        )
        yield archive, before if done else None


def _matching(given: str) -> Iterator[str]:
    if given == STANDARD_INPUT:
        yield given
    elif _SCHEME in given:
        try:
            (match,) = FileSystems.match([given])
        except (BeamIOError, GoogleAPIError, GoogleAuthError, OSError, ValueError) as error:
            raise UsageError(f"{given} cannot be found: {_cause(error)}.") from None
        files = sorted(one.path for one in match.metadata_list)
        if not files:
            raise UsageError(f"{given} is not there.")
        yield from files
    else:
        yield from _here(given)


def _cause(error: BaseException) -> str:
    """What a file system said, without what Beam has wrapped it in."""
    while isinstance(error, BeamIOError) and error.exception_details:
        error = next(iter(error.exception_details.values()))
    return (str(error).partition("\n")[0] or type(error).__name__).rstrip(".")


def _here(given: str) -> Iterator[str]:
    try:
        is_pattern = any(one in given for one in _PATTERN) and not os.path.lexists(given)
        found = sorted(glob.glob(given, recursive=True)) if is_pattern else [given]  # noqa: PTH207  # a Path has no absolute patterns
        files = [file for file in found if not (is_pattern and Path(file).is_dir())]
        if not files:
            raise UsageError(f"No file matches {given}.")
        for file in files:
            yield _regular(file)
    except (OSError, ValueError) as error:  # a name that is too long, or a directory that may not be looked into
        raise UsageError(f"{given} cannot be found: {getattr(error, 'strerror', None) or error}.") from None


def _regular(file: str) -> str:
    """Its path, by which it is remembered.

    Raises:
        UsageError: it is none that can be read, and read again.
        OSError: it cannot be looked at.
    """
    if not file:
        raise UsageError("A file has no name: perhaps a variable of the shell is empty.")
    try:
        mode = Path(file).stat().st_mode
    except FileNotFoundError:
        why = "leads to what is not there" if os.path.lexists(file) else "is not there"
        raise UsageError(f"{file} {why}.") from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"{file} is a directory: give its files, such as '{Path(file) / '*'}'.")
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"{file} is a pipe or a device, which cannot be read again: give - and let it be standard input."
        )
    path = str(Path(file).resolve())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{path} is a name in no UTF-8, which cannot be kept: rename it.") from None
    return path


def _archive(file: str) -> Archive:
    if file == STANDARD_INPUT:
        head = STANDARD.head()
        digest = hashlib.sha256(head).hexdigest()
        try:
            kind = kind_of(file, head)
        except MisconfiguredError as error:
            raise UsageError(f"Standard input: {error}") from None
        part = ArchivePart(file, f"standard input {digest[:16]}", digest, kind, Part(0, 0, None), None)
        return Archive(file, None, [part])
    with opened(file, counted=False) as source:
        try:
            kind = kind_of(file, exactly(source, HEAD_BYTES))
            size = source.seek(0, os.SEEK_END)
            source.seek(0)
            parts = parts_of(kind, size, source)
            _see_columns(source, kind, parts[0])
            identity = fingerprint(source, size)
        except MisconfiguredError as error:
            raise UsageError(f"{file}: {error}") from None
        except DamagedError as error:
            raise UsageError(f"{file}: {error}.") from None
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error.strerror or error}.") from None
    made = [ArchivePart(file, file, identity, kind, part, _bytes(part, size, len(parts))) for part in parts]
    return Archive(file, size, made)


def _see_columns(source: BinaryIO, kind: Kind, part: Part) -> None:
    """Read the first row, where columns are named or have types; damage is met again when all is read.

    Raises:
        MisconfiguredError: they cannot be fields of points.
    """
    if kind.shape != "lines":
        with contextlib.suppress(DamagedError):
            next(chunks(source, kind, part, None, chunk_bytes=1, told=lambda _damage: None), None)


def _bytes(part: Part, size: int | None, parts: int) -> int | None:
    return part.end - part.start if parts > 1 and part.end is not None else size
