"""Listening at an address, and saying where."""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable
from typing import Final

from tidemark.errors import UsageError

_FILES_BESIDE_CONNECTIONS: Final = 100


async def listen(
    made: Callable[[], asyncio.BaseProtocol],
    flag: str,
    address: str,
    port: int,
    tls: ssl.SSLContext | None,
    handshake_s: float,
    backlog: int,
) -> asyncio.Server:
    """Listen for connections.

    Raises:
        UsageError: the address cannot be listened at; `flag` is the option that named it.
    """
    try:
        return await asyncio.get_running_loop().create_server(
            made,
            host=address,
            port=port,
            ssl=tls,
            ssl_handshake_timeout=handshake_s if tls else None,
            backlog=backlog,
        )
    except OSError as error:
        raise UsageError(f"{flag}: {address}:{port} cannot be listened at: {error.strerror}.") from None


def address_of(server: asyncio.Server) -> str:
    """Host and port, as a URL has them."""
    host, port = server.sockets[0].getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def allow_files(connections: int) -> None:
    """Each connection is a file; ask for as many as may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _FILES_BESIDE_CONNECTIONS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
