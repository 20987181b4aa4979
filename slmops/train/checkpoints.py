"""What a training leaves on disk while it runs, in a folder of its own.

`run.json` says what run it is, `curve.jsonl` how it goes, `state.npz` all that is needed to go on, and
`best-STEP.npz` the weights that validation found best.

Laws: a state that is there is whole, however the run before it ended; it names a best that is there,
and as much of the curve as was written before it; it is never taken for the state of another run; a
disk that is full leaves the last state as it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from slmops.errors import BuildError, TrainingError
from slmops.train.curve import Curve, Point, Validation, line, read
from slmops.train.schedule import Best

IDENTITY, CURVE, STATE = "run.json", "curve.jsonl", "state.npz"
_ABOUT = "about"
_SHOWN = 80
"""Characters of a value that an error shows."""


@dataclass(frozen=True)
class About:
    """Where a run stands, beside its weights."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    curve: int = 0
    """Bytes of curve.jsonl."""
    best: Best = field(default_factory=Best)
    validation: float = 0.0
    """The latest loss."""


class Checkpoints:
    """The folder of a run."""

    def __init__(self, folder: Path, identity: Mapping[str, str], *, fresh: bool, writes: bool) -> None:
        """Open `folder` for the run that `identity` tells from others; `fresh` forgets what is there.

        Of several processes one `writes`, and must be first. Raises TrainingError when another run is there.
        """
        self._folder = folder
        self._writes = writes
        if not writes:
            return
        with self._disk():
            folder.mkdir(parents=True, exist_ok=True)
            if fresh:
                (folder / STATE).unlink(missing_ok=True)
            if (folder / STATE).exists():
                self._check(identity)
            self._put(IDENTITY, lambda file: file.write(_json(dict(identity))))

    def load(self) -> tuple[About, dict[str, NDArray[Any]]] | None:
        """Return where the run stands and its arrays, or None; the curve is cut to what it was then."""
        kept = self._arrays(STATE) if (self._folder / STATE).exists() else None
        about = About() if kept is None else _about(str(kept.pop(_ABOUT)))
        if self._writes:
            with self._disk(), (self._folder / CURVE).open("ab") as file:
                file.truncate(about.curve)
        return None if kept is None else (about, kept)

    def write(self, entry: Point | Validation) -> None:
        """Add to the curve."""
        if self._writes:
            with self._disk(), (self._folder / CURVE).open("a", encoding="utf-8") as file:
                file.write(line(entry))

    def keep_best(self, step: int, weights: Mapping[str, NDArray[Any]]) -> None:
        """Keep the weights that were best after `step`."""
        if self._writes:
            with self._disk():
                self._put(_best(step), lambda file: np.savez(file, **weights))  # type: ignore[arg-type]  # names

    def best(self, step: int) -> dict[str, NDArray[Any]]:
        """Return the weights that were best after `step`."""
        return self._arrays(_best(step))

    def save(self, about: About, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep a state in place of the one before."""
        if not self._writes:
            return
        with self._disk():
            curve = self._folder / CURVE
            _sync(curve)
            said = np.array(json.dumps(asdict(replace(about, curve=curve.stat().st_size))))
            self._put(STATE, lambda file: np.savez(file, **{_ABOUT: said}, **arrays))  # type: ignore[arg-type]
            for other in self._folder.glob(_best("*")):
                if other.name != _best(about.best.step):
                    other.unlink()

    def curve(self) -> Curve:
        """Return how the run went so far."""
        with (self._folder / CURVE).open(encoding="utf-8") as file:
            return read(file)

    def _check(self, identity: Mapping[str, str]) -> None:
        there = json.loads((self._folder / IDENTITY).read_text(encoding="utf-8"))
        for key in dict.fromkeys([*identity, *there]):
            was, now = there.get(key, "nothing"), identity.get(key, "nothing")
            if was != now:
                raise TrainingError(
                    f"{self._folder} holds another run: its {key} is {was[:_SHOWN]}, not {now[:_SHOWN]}",
                    remedy="Begin anew in its place with --fresh, or give another --out.",
                )

    def _put(self, name: str, write: Callable[[IO[bytes]], Any]) -> None:
        """Write a file whole or not at all."""
        file, partial = self._folder / name, self._folder / f"{name}.partial"
        try:
            with partial.open("wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
        _sync(self._folder)

    def _arrays(self, name: str) -> dict[str, NDArray[Any]]:
        file = self._folder / name
        try:
            with np.load(file, allow_pickle=False) as found:
                return dict(found)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise TrainingError(
                f"{file} cannot be read: {error}",
                remedy="Begin anew with --fresh. Every process of a run must see the same folder.",
            ) from error

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BuildError(
                f"the run in {self._folder} cannot be written: {error.strerror or error}",
                remedy="Make room on its disk and give the same command again; it goes on from there.",
            ) from error


def _about(said: str) -> About:
    found = json.loads(said)
    return About(**{**found, "best": Best(**found["best"])})


def _best(step: int | str) -> str:
    return f"best-{step}.npz"


def _json(said: Mapping[str, str]) -> bytes:
    return (json.dumps(said, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
