"""The page's files: read once, packed once, and answered without a token, since nothing is in them but the page."""

from __future__ import annotations

import gzip
import hashlib
from importlib.resources import files
from typing import Final, NamedTuple

import msgspec

from tidemark.version import VERSION

_TYPES: Final = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "json": b"application/json",
}
ROOT: Final = "/"
UNDER: Final = "/page/"
ABOUT: Final = "about.json"


class File(NamedTuple):
    """One of them.

    Attributes:
        media_type: With its charset.
        body: As it is.
        packed: By gzip.
        tag: Of the body.
    """

    media_type: bytes
    body: bytes
    packed: bytes
    tag: bytes


class Page:
    """All files, by the path at which each is asked for, and what a browser is told of them."""

    def __init__(self, edge_url: str | None) -> None:
        """Read them.

        Args:
            edge_url: Where the page may send points of its own; None: nowhere.
        """
        found = {
            each.name: each.read_bytes()
            for each in files("tidemark.query").joinpath("page").iterdir()
            if each.name.rpartition(".")[2] in _TYPES
        }
        found[ABOUT] = msgspec.json.encode({"edge": edge_url, "version": VERSION})
        self.files = {ROOT if name == "index.html" else UNDER + name: _file(name, body) for name, body in found.items()}
        elsewhere = f" {edge_url}" if edge_url else ""
        policy = (
            f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'{elsewhere}; img-src data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self.headers: Final = (
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cache-control", b"no-cache"),
            (b"vary", b"accept-encoding"),
        )


def _file(name: str, body: bytes) -> File:
    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'.encode()
    return File(_TYPES[name.rpartition(".")[2]], body, gzip.compress(body, 9, mtime=0), tag)
