"""Write down what operators do, each act when it begins and when it ends, in $SLMOPS_HOME/audit.jsonl.

What a line is and how a chain is judged, `rollout/audit` knows. Laws: nothing is done that could not be
written down first; a line is on the disk before the act goes on; processes take turns, and one that is killed
in the middle of a line leaves a torn one, which the next to write keeps as an act of its own. An act with no
end was killed, or goes on still.
"""

import functools
import getpass
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_SH, flock
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar

import typer

from slmops.cli import home
from slmops.cli.render import say
from slmops.errors import SlmopsError
from slmops.rollout import audit

FILE_NAME = "audit.jsonl"
INTERRUPTED = 130
BLOCK = 8192
"""Bytes from the end in which the last line is looked for first."""
P = ParamSpec("P")
R = TypeVar("R")
_under_way: list[dict[str, Any]] = []
"""What the lines of the ends will say of acts that have begun in this process, the outermost first."""


def path() -> Path:
    """Return the file in which acts are written down."""
    return home.folder() / FILE_NAME


def who() -> str:
    """Return who acts: user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"{user}@{platform.node()}"


def record(action: str, **facts: Any) -> str:
    """Write down an act, with the words of the command line; return the digest of its line.

    Facts are plain JSON. Raise OSError where it cannot be written.
    """
    said = {"words": audit.without_secrets(sys.argv[1:]), **facts}
    return append(path(), who(), action, said)


def append(file: Path, by: str, action: str, facts: dict[str, Any]) -> str:
    """Add a line to the chain in `file` and see it to the disk; return its digest."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = not file.exists()
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as opened:
        flock(opened, LOCK_EX)
        last, end, piece = _end(opened)
        head = audit.digest(last) if last else audit.BEGINNING
        text = b""
        if piece:
            text = audit.line(head, _now(), by, audit.TORN, audit.torn(piece))
            head = audit.digest(text)
        added = audit.line(head, _now(), by, action, facts)
        # Over what is torn, in one go: whoever is killed here leaves a torn end once more.
        _write(opened, text + added, end)
        os.fsync(opened)
    if fresh:
        _sync_folder(file.parent)
    return audit.digest(added)


@contextmanager
def recorded(action: str, **facts: Any) -> Iterator[None]:
    """Write down that an act begins, and how it ended: its exit code, and the code of its error."""
    begun = record(action, outcome="begun", **facts)
    end: dict[str, Any] = {"exit_code": 0}
    _under_way.append(end)
    try:
        yield
    except BaseException as error:
        end |= _failure(error)
        raise
    finally:
        _under_way.pop()
        _close(action, begun, end)


def note(**facts: Any) -> None:
    """Let facts stand in the line that will end the act under way; where none is recorded, in none."""
    if _under_way:
        _under_way[-1] |= facts


def audited(action: str, *, when: str = "") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return what makes a verb write down its beginning and its end.

    A `dry_run` is not written down; `when` names an option without which the verb changes nothing.
    """

    def wrap(verb: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(verb)
        def run(*args: P.args, **named: P.kwargs) -> R:
            if named.get("dry_run") or (when and not named.get(when)):
                return verb(*args, **named)
            with recorded(action):
                return verb(*args, **named)

        return run

    return wrap


def lines() -> list[bytes]:
    """Return the lines that are there, each with its newline; none where nothing was ever written down."""
    try:
        with path().open("rb") as file:
            flock(file, LOCK_SH)
            return file.readlines()
    except FileNotFoundError:
        return []


def _close(action: str, begun: str, end: dict[str, Any]) -> None:
    outcome = "done" if end["exit_code"] == 0 else "failed"
    try:
        append(path(), who(), action, {"outcome": outcome, "began": begun, **end})
    except OSError as error:
        say(f"That `{action}` ended could not be written to {path()}: {error.strerror}.")


def _failure(error: BaseException) -> dict[str, Any]:
    """Return what there is to say of how an act was left."""
    if isinstance(error, SlmopsError):
        return {"exit_code": error.exit_code, "error": error.code, "message": str(error)}
    if isinstance(error, typer.Exit):
        return {"exit_code": error.exit_code}
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return {"exit_code": INTERRUPTED}
    return {"exit_code": 1, "error": type(error).__name__}


def _end(file: BinaryIO) -> tuple[bytes, int, bytes]:
    """Return the last whole line, where what is whole ends, and what is torn after it."""
    size = file.seek(0, os.SEEK_END)
    reach = BLOCK
    while True:
        start = max(0, size - reach)
        file.seek(start)
        tail = file.read(size - start)
        whole, newline, piece = tail.rpartition(b"\n")
        before = whole.rpartition(b"\n")
        if start == 0 or (newline and before[1]):
            return before[2] + newline, size - len(piece), piece
        reach *= 4


def _write(file: BinaryIO, text: bytes, at: int) -> None:
    file.seek(at)
    done = 0
    while done < len(text):
        done += file.write(text[done:])
    file.truncate()


def _now() -> str:
    moment = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1e6):06d}Z"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
