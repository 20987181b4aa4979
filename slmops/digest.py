"""A sha256 that can print, parse and check itself.

Laws: `parse(str(d)) == d`; a digest of bytes and of the same bytes in pieces are equal.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO

from slmops.errors import IntegrityError

if TYPE_CHECKING:
    from pathlib import Path

PIECE = 1 << 20
_FORM = re.compile(r"sha256:[0-9a-f]{64}")


def parse(text: str) -> str:
    """Return `text` if it is a digest (`sha256:` and 64 hexadecimal digits), else raise IntegrityError."""
    if not _FORM.fullmatch(text):
        raise IntegrityError(f"not a digest: expected sha256:<64 hex digits>, got {text[:80]!r}")
    return text


def of_bytes(data: bytes) -> str:
    """Return the digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def of_pieces(pieces: Iterable[bytes]) -> str:
    """Return the digest of the concatenation of `pieces`."""
    state = hashlib.sha256()
    for piece in pieces:
        state.update(piece)
    return "sha256:" + state.hexdigest()


def of_file(path: Path) -> str:
    """Return the digest of a file, read in pieces of 1 MiB."""
    with path.open("rb") as file:
        return of_pieces(pieces(file))


def pieces(file: BinaryIO) -> Iterable[bytes]:
    """Yield what is left of `file` in pieces of 1 MiB."""
    while piece := file.read(PIECE):
        yield piece


def hexdigits(digest: str) -> str:
    """Return the 64 hexadecimal digits: a name that is safe in a path."""
    return parse(digest)[len("sha256:") :]


def short(digest: str) -> str:
    """Return the first 12 hexadecimal digits, for people."""
    return hexdigits(digest)[:12]
