"""From bodies to columns of points: decoding, and mapping before it; beside what they stand on.

    python bench/decode.py [--rounds 5]

`single`, `batch`: CPU µs a point of bodies of one point, and of 500, to a block's columns; beside msgspec's own typed decode of
the same bytes, of which nothing is kept. `bad`: the same of single points of which one in a hundred, or each, is refused.
`mapping`: values of about 700 bytes of which jq makes four points; all CPU, that of jq's process included, less that of
decoding what came out; beside jq alone, in this process, without points. `filter`: a wide JSON line of which nothing is taken,
MB a second of one core. Each round measures all of them in turn; medians.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable

import jq
import rig

from tidemark.mapping.mapped import MappedDecoder
from tidemark.mapping.program import program
from tidemark.wire.block import BLOCK_POINTS, Columns
from tidemark.wire.body import BODY
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from tidemark.wire.messages import Messages, shares

NOW_US = time.time_ns() // 1000
PULL = 1000
SINGLES, BATCHES, A_BATCH, VALUES, LINES = 100_000, 400, 500, 20_000, 20_000
FOUR = """.body | .id as $id | .t as $t | .status
| {source: $id, metric: "fps", event_time: $t, value: .fps},
  {source: $id, metric: "bitrate", event_time: $t, value: .bitrate},
  {source: $id, metric: "temperature", event_time: $t, value: .temperature},
  {source: $id, metric: "load", event_time: $t, value: .load}"""
NOTHING = '.body | select(.kind == "status") | {source: .id, metric: "m", event_time: .t, value: .v}'
Figures = dict[str, float]


def point(number: int) -> dict[str, object]:
    return {"metric": f"m{number % 10}", "event_time": NOW_US // 1000 - number, "value": number / 8}


def single(number: int) -> bytes:
    return json.dumps({"project": "cams", "source": f"gateway-{number % 100}", **point(number)}).encode()


def batch(number: int) -> bytes:
    points = [point(number * A_BATCH + one) for one in range(A_BATCH)]
    return json.dumps({"project": "cams", "source": f"gateway-{number % 100}", "points": points}).encode()


def value(number: int) -> bytes:
    status = {"fps": 25 + number % 7, "bitrate": 1234.5, "temperature": 40.1, "load": 0.25}
    more = {"firmware": "7.4.1-b2", "lens": ["wide", "tele", "fish"], "regions": [[n, n * 2, n * 3] for n in range(30)]}
    made = {
        "id": f"gateway-{number % 100}",
        "t": NOW_US // 1000 - number,
        "status": status,
        "more": more,
        "note": "x" * 80,
    }
    return json.dumps(made).encode()


def line(number: int) -> bytes:
    made = {f"field_{n}": number * n / 8 if n % 3 else f"text {n}" for n in range(60)}
    return json.dumps({"kind": "track", **made}).encode()


def messages(bodies: list[bytes]) -> Messages:
    return Messages.of([Message(data, {"project": "cams"}, NOW_US, str(number)) for number, data in enumerate(bodies)])


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of this thread's work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def decode(some: Messages) -> None:
    """As the pipeline does with pulls of a thousand messages."""
    decoder, columns = Decoder(), Columns()
    for begin in range(0, len(some), PULL):
        for part in shares(some[begin : begin + PULL]):
            decoder.decode_all(part, columns, NOW_US)
            if len(columns) >= BLOCK_POINTS:
                columns.block()
                columns = Columns()
    columns.block()


def bare(some: Messages) -> None:
    """What was read of a pull is there until the next one, as a program has it that does something with it."""
    for begin in range(0, len(some), PULL):
        _kept = [BODY.decode(data) for data in some.data[begin : begin + PULL]]


def children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def mapped(text: str, some: Messages) -> tuple[float, Columns]:
    """CPU seconds, jq's process included; and the points."""
    before = time.process_time() + children_s()
    decoder, columns = MappedDecoder(program(text, "bench.jq"), Decoder(Limits())), Columns()
    for part in shares(some):
        decoder.decode(part, columns, NOW_US)
    decoder.close()
    return time.process_time() + children_s() - before, columns


def jq_alone(text: str, some: Messages) -> None:
    compiled = jq.compile(text)
    for message in some:
        for _ in compiled.input_text('{"body":' + message.data.decode() + "}"):
            pass


def lines(message: Message) -> bytes:
    """What jq makes of one value, as a body."""
    made = jq.compile(FOUR).input_text('{"body":' + message.data.decode() + "}")
    return "\n".join(json.dumps(one) for one in made).encode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    singles = [single(number) for number in range(SINGLES)]
    broken = [data.replace(b'"value": ', b'"value": "x') for data in singles]
    clean, batches = messages(singles), messages([batch(number) for number in range(BATCHES)])
    some_bad = messages([broken[n] if n % 100 == 50 else data for n, data in enumerate(singles)])
    all_bad = messages(broken[: SINGLES // 10])
    values, wide = messages([value(n) for n in range(VALUES)]), messages([line(n) for n in range(LINES)])
    outputs = messages([lines(one) for one in values[:2000]])
    gc.freeze()  # what is measured walks its own garbage, not the bodies that lie here
    rounds: list[Figures] = []
    for _ in range(arguments.rounds):
        clean_s = cpu_s(lambda: decode(clean))
        mapping_s, columns = mapped(FOUR, values)
        assert (len(columns.series), columns.dead_letters) == (4 * VALUES, [])
        filter_s, columns = mapped(NOTHING, wide)
        assert (len(columns.series), columns.dead_letters) == (0, [])
        batch_s = cpu_s(lambda: decode(batches))
        rounds.append(
            {
                "single_us": clean_s / SINGLES * 1e6,
                "single_to_msgspec": cpu_s(lambda: bare(clean)) / clean_s,
                "batch_us": batch_s / BATCHES / A_BATCH * 1e6,
                "batch_to_msgspec": cpu_s(lambda: bare(batches)) / batch_s,
                "bad_1_percent": clean_s / cpu_s(lambda: decode(some_bad)),
                "bad_all": clean_s / 10 / cpu_s(lambda: decode(all_bad)),
                "mapping_us": mapping_s / VALUES * 1e6 - cpu_s(lambda: decode(outputs)) / len(outputs) * 1e6,
                "jq_us": cpu_s(lambda: jq_alone(FOUR, values)) / VALUES * 1e6,
                "filter_mb_s": sum(len(one.data) for one in wide) / filter_s / 1e6,
                "jq_filter_mb_s": sum(len(one.data) for one in wide) / cpu_s(lambda: jq_alone(NOTHING, wide)) / 1e6,
            }
        )
    found = {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}
    figures: dict[str, object] = {
        "medians": found,
        "bytes": {"value": len(values[0].data), "line": len(wide[0].data), "single": len(singles[0])},
        "rounds": rounds,
    }
    return rig.finish(
        "decode",
        figures,
        {
            "single_to_msgspec": (found["single_to_msgspec"], ">=", 0.5),
            "batch_to_msgspec": (found["batch_to_msgspec"], ">=", 0.8),
            "bad_1_percent": (found["bad_1_percent"], ">=", 0.8),
            "bad_all": (found["bad_all"], ">=", 0.3),
            "mapping_us": (found["mapping_us"], "<=", 60),
            "filter_mb_s": (found["filter_mb_s"], ">=", 25),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
