"""Keep what a teacher says as it says it, in a file that a run which was killed goes on from.

The first line says who is asked and how; then an answer a line. Knows neither teachers nor prompts.

Laws: a line is there whole or is not read; a file of another asking is refused and left as it is; one
process writes at a time, the next one waits for it.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from slmops.build.isolate import Progress
from slmops.errors import TrainingError
from slmops.train.answers import Answer

Place = tuple[str, int]
"""An answer: the digest of its question, and its number."""


@dataclass(frozen=True)
class Heard:
    """What a teacher said, in all runs; and what it wrote in this one."""

    answers: dict[Place, Answer]
    written: int
    """Tokens of this run."""
    seconds: float
    """How long it wrote."""


class Kept:
    """The answers so far, and the file that more are added to."""

    def __init__(self, file: FileIO, name: Path, answers: dict[Place, Answer]) -> None:
        """Take an open file whose end is that of a line."""
        self._file, self._name, self.answers = file, name, answers
        self._written = 0
        self._begun = time.monotonic()

    def add(self, said: Iterable[tuple[Place, Answer]]) -> None:
        """Add answers; they are on their way to the disk when this returns."""
        new = list(said)
        lines = [{"of": of, "number": number, **asdict(answer)} for (of, number), answer in new]
        _write(self._file, self._name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        self.answers.update(new)
        self._written += sum(answer.tokens for _, answer in new)

    def begin(self) -> None:
        """Take the time from now on."""
        self._begun = time.monotonic()

    def heard(self) -> Heard:
        """Return what there is."""
        return Heard(self.answers, self._written, time.monotonic() - self._begun)


@contextmanager
def keep_answers(
    name: Path, asked: Mapping[str, Any], progress: Progress, *, fresh: bool = False
) -> Iterator[Kept]:
    """Open the file of what `asked` describes, and begin it where it is not there.

    With `fresh` a file of another asking is begun anew.

    Raises TrainingError when it holds answers to another asking, or the disk does not take it.
    """
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(name, "a+")
    except OSError as error:
        raise _full(name, error) from error
    with file:
        _lock(file, name, progress)
        file.seek(0)
        *whole, rest = file.readall().split(b"\n")
        before, answers = _read(name, whole)
        if fresh and before != asked:
            file.truncate(0)
            whole, rest, before, answers = [], b"", None, {}
        if before not in (None, asked):
            raise _other(name, before or {}, asked)
        if rest:
            file.truncate(sum(len(line) + 1 for line in whole))
        if before is None:
            _write(file, name, json.dumps(asked, ensure_ascii=False) + "\n")
        yield Kept(file, name, answers)


def _lock(file: FileIO, name: Path, progress: Progress) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress(f"waiting for another process that writes {name.name}", 0.0)
        fcntl.flock(file, fcntl.LOCK_EX)


def _read(name: Path, lines: list[bytes]) -> tuple[dict[str, Any] | None, dict[Place, Answer]]:
    """Return how was asked before, None if never, and what was answered."""
    try:
        said = [json.loads(line) for line in lines]
        return (
            said[0] if said else None,
            {(line.pop("of"), line.pop("number")): Answer(**line) for line in said[1:]},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{name} is no file of a teacher's answers, or was changed: {error}",
            remedy="Remove it, or give another --out.",
        ) from error


def _write(file: FileIO, name: Path, text: str) -> None:
    rest = memoryview(text.encode())
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise _full(name, error) from error


def _full(name: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"{name} cannot be written: {error.strerror}",
        remedy="See that its folder can be written and has room, and run the same command again: it goes on "
        "with what is not answered yet.",
    )


def _other(name: Path, before: Mapping[str, Any], asked: Mapping[str, Any]) -> TrainingError:
    keys = [key for key in {**before, **asked} if before.get(key) != asked.get(key)]
    told = "; ".join(f"{key} {_short(before.get(key))}, now {_short(asked.get(key))}" for key in keys)
    return TrainingError(
        f"{name} holds answers to another asking: {told}",
        remedy="Ask as before to go on with it; or remove it, or give another --out, to begin anew.",
    )


def _short(said: Any) -> str:
    return str(said)[:40]
