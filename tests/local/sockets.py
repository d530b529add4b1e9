"""What processes listen at, as the kernel says."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path

_LISTENS = "0A"
_UNCONNECTED = "07"


def family(roots: Iterable[int]) -> set[int]:
    """Processes, and all that descend from them."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(pids: Iterable[int]) -> set[tuple[int, str, str]]:
    """(process, protocol, address:port) of every socket that takes what comes: TCP that listens, UDP that is bound."""
    owners: dict[str, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    socket = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
                    if socket is not None:
                        owners[socket[1]] = pid
    found = set()
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            wanted = _LISTENS if protocol.startswith("tcp") else _UNCONNECTED
            if fields[3] == wanted and fields[9] in owners:
                address, port = fields[1].split(":")
                found.add((owners[fields[9]], protocol, f"{_address(address)}:{int(port, 16)}"))
    return found


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Of the kernel's hexadecimal, 32 bits at a time in the machine's order."""
    raw = b"".join(bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8))
    if len(raw) == 4:
        return ipaddress.IPv4Address(raw)
    six = ipaddress.IPv6Address(raw)
    return six.ipv4_mapped or six


def beyond_loopback(found: Iterable[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """Those that another machine could reach."""
    return [one for one in found if not ipaddress.ip_address(one[2].rpartition(":")[0]).is_loopback]
