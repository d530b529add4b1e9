"""What every program does first and last: its log, its output, its way to this machine's own servers, its exit status."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import threading
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from tidemark import logs
from tidemark.errors import TidemarkError, UsageError
from tidemark.logs import log, tell

_events = threading.Lock()
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def reported(program: Callable[[], int]) -> int:
    """Set up the process and run a program; a foreseen failure becomes one sentence and an exit status.

    Returns:
        The program's status; 2 for a wrong setting, 130 when it was interrupted, 141 when nobody reads what it prints, 1
        for anything else that was foreseen, and in a JSON log also for what was not.
    """
    set_up()
    try:
        logs.set_up()
        return program()
    except UsageError as error:
        tell(error)
        return 2
    except TidemarkError as error:
        tell(error)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 141  # as of any program in `… | head`
        if not logs.as_json():
            raise
        log.exception("The program ended by an error that was not foreseen.")
        return 1


def set_up() -> None:
    """Show what the terminal has no letters for as escapes, and reach this machine's own servers without a proxy.

    What is written to an output that is closed goes nowhere.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # as long as the program
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # a test's own, or closed
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    reach_loopback_directly(os.environ)


def reach_loopback_directly(environment: MutableMapping[str, str]) -> None:
    """Add the loopback interface to what is reached without a proxy, where there is a proxy.

    Clients of HTTP and gRPC would ask a proxy for 127.0.0.1 too, which then tries to reach itself.
    """
    if not any(environment.get(name) for name in _proxies(environment)):
        return
    names = ["no_proxy", "NO_PROXY"]
    if environment.get("no_grpc_proxy"):  # goes before the others, in gRPC's core
        names.append("no_grpc_proxy")
    for name in names:
        # a program that reads only one of the two shall find what stands in the other
        stated = environment.get(name) or environment.get(name.swapcase()) or ""
        there = [part.strip() for part in stated.split(",") if part.strip()]
        environment[name] = ",".join([*there, *(host for host in LOOPBACK if host not in there)])


def _proxies(environment: MutableMapping[str, str]) -> list[str]:
    return [name for name in environment if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")]


def _nobody_reads() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        silence_output()
        return True
    return False


def event(name: str, **fields: Any) -> None:
    """Print one JSON line on standard output, for a program that has started this one."""
    with _events:
        try:
            print(json.dumps({"event": name, **fields}), flush=True)  # noqa: T201
        except OSError:
            silence_output()  # a pipe or terminal that is gone is no reason to stop


def silence_output() -> None:
    """Nobody reads standard output any more: what is written to it goes nowhere, without an error at the end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
