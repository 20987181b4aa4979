"""What was built before, by what it was built from: a folder of finished steps.

The door to that folder. A step is named by the digest of all that decides its result: inputs, recipe,
versions of the tools, and this room's own code. Knows nothing of what steps do.

Laws: a step that is found is whole; an interrupted one leaves nothing to be found; the same step is
kept once, however many make it at a time; throwing the folder away costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from slmops import digest as digests

SAID = "step.json"
"""In the folder of a step: what it was made of, for people."""
SEEN = "digests.json"
"""Digests of files that were read before, by path, size and time of their last change."""
TOOLS = ("gguf", "llama-cpp-python", "numpy", "onnx", "onnxruntime", "optimum-onnx", "torch", "transformers")


class Cache:
    """Finished steps under `folder`, which is made when the first is kept."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`."""
        self.folder = folder

    def find(self, step: Mapping[str, Any]) -> Path | None:
        """Return the folder of a finished step; None when it is still to be made."""
        place = self._place(step)
        return place if place.is_dir() else None

    @contextlib.contextmanager
    def make(self, step: Mapping[str, Any]) -> Iterator[Path]:
        """Yield an empty folder to make the step in; it is kept when the block ends well, else removed."""
        place = self._place(step)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=place.parent) as room:
            made = Path(room) / "step"
            made.mkdir()
            yield made
            (made / SAID).write_text(json.dumps(step, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            _keep(made, place)

    def digest_of(self, file: Path) -> str:
        """Return the sha256 of a file; one that has not changed since it was last read is not read again."""
        stat = file.stat()
        key = f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
        book = self.folder / SEEN
        try:
            seen: dict[str, str] = json.loads(book.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            seen = {}
        if key not in seen:
            self.folder.mkdir(parents=True, exist_ok=True)
            seen[key] = digests.of_file(file)
            partial = book.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(seen, indent=1), encoding="utf-8")
            partial.replace(book)
        return seen[key]

    def digest_of_text(self, file: Path) -> str:
        """Return what names a file of texts: its digest, and its ending, which says how it is read."""
        return f"{self.digest_of(file)}{file.suffix}"

    def steps(self) -> list[tuple[dict[str, Any], int]]:
        """Return every finished step, as it says of itself, with the bytes it takes."""
        found = []
        for said in sorted(self.folder.glob(f"*/{SAID}")):
            nbytes = sum(file.stat().st_size for file in said.parent.iterdir())
            found.append((json.loads(said.read_text(encoding="utf-8")), nbytes))
        return found

    def clear(self) -> int:
        """Remove every step; return the bytes that were freed."""
        freed = sum(nbytes for _, nbytes in self.steps())
        shutil.rmtree(self.folder, ignore_errors=True)
        return freed

    def _place(self, step: Mapping[str, Any]) -> Path:
        text = json.dumps(step, sort_keys=True, separators=(",", ":"))
        return self.folder / digests.hexdigits(digests.of_pieces([text.encode()]))


def _keep(made: Path, place: Path) -> None:
    """Move a step to its place; where somebody else has kept the same meanwhile, theirs stays."""
    try:
        made.rename(place)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


@lru_cache
def tools() -> dict[str, str]:
    """Return the version of every tool that has a hand in a build, this room's code by its digest."""
    found = {}
    for name in TOOLS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    sources = sorted(Path(__file__).parent.glob("*.py"))
    found["slmops"] = f"{version('slmops')} {digests.of_pieces(map(Path.read_bytes, sources))}"
    return found
