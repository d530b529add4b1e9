"""`tidemark dead-letters`: which there are, what is wrong with each, and what to do about it."""

from __future__ import annotations

import argparse
import codecs
import json
import re
import sys
from itertools import islice
from typing import Any, Final

import msgspec

from tidemark.arguments import add_settings, read_settings
from tidemark.errors import UsageError
from tidemark.operate.arguments import GREATEST_NUMBER
from tidemark.operate.chosen import add_filters, chosen
from tidemark.plain import in_place, plain
from tidemark.settings import DEAD_LETTERS
from tidemark.store.connection import make_engine
from tidemark.store.letters import GROUPS, Letter, batches, counts, letters, shown, whole
from tidemark.store.location import database_url
from tidemark.wire.message import moment
from tidemark.wire.reasons import Reason

STATEMENT_TIMEOUT_S: Final = 60
_BEGINNING: Final = 120
_SHOWN_BYTES: Final = 64 << 10
_AROUND: Final = 60
_CONTINUED: Final = bytes(range(0x80, 0xC0))
"""Bytes of UTF-8 that begin no character."""
_BYTE: Final = re.compile(r"\(byte (\d+)\)")
ADVICE: Final[dict[Reason, str]] = {
    Reason.EMPTY_MESSAGE: "Nothing was in it: look why its sender publishes empty messages.",
    Reason.MESSAGE_TOO_LARGE: "Have it sent in parts, or raise --max_message_bytes and redrive.",
    Reason.UNKNOWN_ENCODING: "The attribute content_encoding is gzip, zstd or left out; mend the sender.",
    Reason.BAD_COMPRESSION: "It was cut or damaged before it was published; the sender has to send it again.",
    Reason.NOT_JSON: "Mend the sender; what is JSON of another kind can be redriven with a --mapping.",
    Reason.MAPPING_FAILED: "Mend the mapping, try it (tidemark mapping try), and redrive with it.",
    Reason.WRONG_SHAPE: "Mend the sender, or redrive with a --mapping that makes points of it.",
    Reason.MISSING_FIELD: "Mend the sender, or redrive with a --mapping that adds what is missing.",
    Reason.BAD_NAME: "Mend the sender; where only the length is wrong, raise --max_name_bytes or --max_metric_bytes and redrive.",
    Reason.BAD_EVENT_TIME: "Mend the sender's times: milliseconds, or RFC 3339 with a zone; or redrive with a --mapping.",
    Reason.EVENT_TIME_IN_FUTURE: "Set the device's clock. Raised --max_future_s lets it in, with the wrong time.",
    Reason.OLDER_THAN_RETENTION: "It is older than what is kept; raise --retention_days first if it is wanted.",
    Reason.BAD_PUBLISH_TIME: "Mend the archive, or load it with a --mapping that leaves publish_time out.",
    Reason.BAD_VALUE: "A value is a finite number of at most 1e150; mend the sender, or redrive with a --mapping.",
    Reason.BAD_ATTRIBUTES: "Attributes are an object of JSON without NaN and NUL; mend the sender.",
    Reason.ATTRIBUTES_TOO_LARGE: "Send less, or raise --max_attributes_bytes and redrive.",
    Reason.ATTRIBUTES_TOO_DEEP: "Send them flatter, or raise --max_attributes_depth and redrive.",
    Reason.TOO_MANY_REFUSED: "Several points of one message are in it; look at the first refused ones of the same message.",
    Reason.REFUSED_BY_DATABASE: "See docs/reference/database-errors.md for the code, mend the database, and redrive.",
    Reason.REFUSED_BY_BIGQUERY: "Mend the table (docs/operations/runbook.md), and redrive: the window is settled again.",
}
"""What to do by reason."""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("dead-letters", help="what was refused, and why", description=__doc__)
    more = parser.add_subparsers(required=True, metavar="list|show|count")
    listing = more.add_parser("list", help="a line each, the oldest first")
    listing.add_argument("--limit", type=int, default=100, metavar="N", help="so many at most. Default: 100.")
    listing.add_argument("--after", type=int, default=0, metavar="ID", help="only those behind this one")
    showing = more.add_parser("show", help="one of them, with all that is known")
    showing.add_argument("id", type=int, metavar="ID")
    counting = more.add_parser("count", help="how many there are")
    counting.add_argument("--by", default="reason", metavar="NAMES", help=f"of {','.join(GROUPS)}. Default: reason.")
    for each, function in ((listing, run_list), (showing, run_show), (counting, run_count)):
        add_settings(each, DEAD_LETTERS)
        each.add_argument("--json", action="store_true", help="print JSON, an object a line")
        each.set_defaults(run=function)
    add_filters(listing)
    add_filters(counting)


def run_list(arguments: argparse.Namespace) -> int:
    """Print those that are chosen."""
    which = chosen(arguments)
    if arguments.limit < 1:
        raise UsageError(f"--limit must be at least 1, not {arguments.limit}.")
    after, most = min(max(arguments.after, 0), GREATEST_NUMBER), min(arguments.limit, sys.maxsize)
    pool = _pool(arguments)
    try:
        found = 0
        some = islice(letters(pool, which, 0 if arguments.json else _BEGINNING, after), most)
        for batch in batches(some):
            for letter in whole(pool, batch) if arguments.json else batch:
                found += 1
                print(json.dumps(_told(letter)) if arguments.json else _line(letter))  # noqa: T201
    finally:
        pool.dispose()
    if not found and not arguments.json:
        print("There are none.")  # noqa: T201
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Print one.

    Raises:
        UsageError: there is none of this number.
    """
    pool = _pool(arguments)
    try:
        letter = shown(pool, arguments.id) if abs(arguments.id) <= GREATEST_NUMBER else None
    finally:
        pool.dispose()
    if letter is None:
        raise UsageError(f"There is no dead letter {arguments.id}.")
    print(json.dumps(_told(letter)) if arguments.json else _page(letter))  # noqa: T201
    return 0


def run_count(arguments: argparse.Namespace) -> int:
    """Print numbers.

    Raises:
        UsageError: it cannot be counted by that.
    """
    by = [name for name in arguments.by.split(",") if name]
    if wrong := next((name for name in by if name not in GROUPS), None):
        raise UsageError(f"--by is of {', '.join(GROUPS)}, not {wrong!r}.")
    which = chosen(arguments)
    pool = _pool(arguments)
    try:
        found = counts(pool, which, by)
    finally:
        pool.dispose()
    names = [name for name in GROUPS if name in by]
    for *values, number, points in found:
        if arguments.json:
            print(json.dumps({**dict(zip(names, values, strict=True)), "letters": number, "points": points}))  # noqa: T201
        else:
            said = "  ".join(f"{plain(value) if value is not None else '-':<26}" for value in values)
            print(f"{number:>10,}  {points:>12,} points  {said}".rstrip())  # noqa: T201
    if not found and not arguments.json:
        print("There are none.")  # noqa: T201
    return 0


def _pool(arguments: argparse.Namespace) -> Any:
    values = read_settings(arguments, DEAD_LETTERS)
    return make_engine(database_url(values), pool_size=1, statement_timeout_s=STATEMENT_TIMEOUT_S)


def _time(us: int) -> str:
    return moment(us).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(letter: Letter) -> str:
    beginning = plain(_text(letter.data)) if _is_text(letter.data) else letter.data[: _BEGINNING // 3].hex(" ")
    return (
        f"{letter.id:>8}  {_time(letter.first_seen)}  {letter.reason:<24}  {plain(letter.project or '-'):<16}  "
        f"{plain(letter.detail)[:_BEGINNING]}  {beginning}"
    )


def _text(data: bytes) -> str:
    """UTF-8, perhaps cut within its first or last character."""
    return data.lstrip(_CONTINUED).decode("utf-8", "ignore")


def _is_text(data: bytes) -> bool:
    """Whether it is UTF-8, perhaps cut within a character."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and error.start > len(data) - 4
    return True


def _told(letter: Letter) -> dict[str, Any]:
    text = letter.data.decode("utf-8", "ignore") if _is_text(letter.data) else None
    told = letter._asdict()
    told |= {
        "attributes": json.loads(letter.attributes),
        "publish_time": _time(letter.publish_time),
        "first_seen": _time(letter.first_seen),
    }
    del told["data"]
    return {**told, **({"text": text} if text is not None else {"hex": letter.data.hex()})}


def _page(letter: Letter) -> str:
    lines = [
        f"id             {letter.id}",
        f"message        {plain(letter.message_id)}, position {letter.position}",
        f"kept           {_time(letter.first_seen)}, as {letter.points:,} points; redriven in vain {letter.attempts} times",
        f"published      {_time(letter.publish_time)}",
        f"project        {plain(letter.project) if letter.project is not None else '-'}",
        f"stage          {letter.stage}",
        f"reason         {letter.reason}: {plain(letter.detail)}",
        f"what to do     {ADVICE[Reason(letter.reason)] if letter.reason in [*Reason] else '-'}",
        f"attributes     {plain(letter.attributes)}",
        f"data           {letter.size:,} bytes" + ("" if _is_text(letter.data) else ", no UTF-8, as hex"),
        "",
        *_body(letter),
    ]
    return "\n".join(lines)


def _body(letter: Letter) -> list[str]:
    """The data; where the reason says at which byte the mistake is, that place with a mark under it first."""
    data = letter.data
    is_text, at = _is_text(data), _place(letter)
    lines = []
    if is_text and at is not None:
        before = in_place(_text(data[max(0, at - _AROUND) : at]))
        lines += [before + in_place(_text(data[at : at + _AROUND])), " " * len(before) + "^ here", ""]
    text = _text(data[:_SHOWN_BYTES]) if is_text else data[:_SHOWN_BYTES].hex(" ")
    more = [f"… and {len(data) - _SHOWN_BYTES:,} bytes more; --json has all"] if len(data) > _SHOWN_BYTES else []
    return [*lines, *(plain(line) for line in text.split("\n")), *more]


def _place(letter: Letter) -> int | None:
    """The byte of the data at which it is no JSON, if the reason says one.

    The number in the reason is of the element as it was sent: a point of a batch has the batch's head before it here, and
    a byte order mark is not counted there.
    """
    said = _BYTE.search(letter.detail)
    if said is None:
        return None
    skipped = len(codecs.BOM_UTF8) if letter.data.startswith(codecs.BOM_UTF8) else 0
    try:
        msgspec.json.decode(letter.data[skipped:], type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        said = _BYTE.search(str(error)) or said
        at = skipped + int(said[1])
    else:
        return None  # it is JSON, and the byte is of something else
    return at if at <= len(letter.data) else None
