"""Keep keys in a file: read them, issue one, revoke one, each change whole or not at all.

What a key is, `keys` knows. Laws: the file is its owner's alone; who reads while it changes sees the old one
or the new one; processes that change it take turns; a file that others could have written is not believed.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slmops import keys
from slmops.errors import DocumentError
from slmops.keys import Key, Keys

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def read(path: Path) -> Keys:
    """Return the keys in a file; raise FileNotFoundError without one, DocumentError where it is broken."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if found.st_mode & WRITABLE_BY_OTHERS:
            raise DocumentError(
                f"others may write {path}", remedy=f"chmod 600 {path}, if its keys are yours."
            )
        return keys.parse(file.read())


def create(path: Path, name: str, role: str, *, lasts: float | None = None) -> tuple[Key, str]:
    """Issue a key, in a new file where there is none; return it, and what its bearer says.

    `lasts` is in seconds. Raise UsageError, DocumentError, OSError.
    """
    with _turn(path):
        now = time.time()
        expires = None if lasts is None else now + lasts
        kept, key, said = keys.issue(
            _there(path), name, role, now=now, expires=expires, draw=secrets.token_bytes
        )
        _write(path, keys.render(kept))
    return key, said


def revoke(path: Path, which: str) -> Key:
    """Revoke a key by its id, or by its name; return it. Raise UsageError, DocumentError, OSError."""
    with _turn(path):
        kept, key = keys.revoke(_there(path), which, time.time())
        _write(path, keys.render(kept))
    return key


def _there(path: Path) -> Keys:
    try:
        return read(path)
    except FileNotFoundError:
        return ()


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Hold the folder's lock: the file itself is another one after each change."""
    folder = os.open(str(path.absolute().parent), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, text: bytes) -> None:
    fresh = path.with_name(f".new-{secrets.token_hex(6)}")
    descriptor = os.open(str(fresh), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if os.geteuid() == 0:
                # Whose folder it is reads the keys: a service has a user of its own.
                owner = path.absolute().parent.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        with suppress(FileNotFoundError):
            fresh.unlink()
    folder = os.open(str(path.absolute().parent), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
