"""Which of slmops' own modules some of them need: what is carried to a device of this installation.

Read from the sources, nothing is imported: an operator's machine need not have what a device has.
It does not know what they are packed in.

Law: with a module come its packages and all that it imports, wherever in the file it does so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
_IMPORT = re.compile(r"^ *(?:from|import) (slmops[\w.]*)(?: import (\([^)]*\)|.*))?$", re.MULTILINE)


def modules(entries: Iterable[str]) -> set[str]:
    """Return every module of slmops that `entries` import, themselves and their packages included."""
    found: set[str] = set()
    ahead = list(entries)
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += [*_parents(name), *_imports(source(name))]
    return found


def source(name: str) -> Path:
    """Return the file of a module; of a package its `__init__.py`."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imports(path: Path) -> list[str]:
    names: list[str] = []
    for module, members in _IMPORT.findall(path.read_text("utf-8")):
        names += [module, *(f"{module}.{member}" for member in re.findall(r"\w+", members))]
    return [name for name in names if source(name).exists()]


def _parents(name: str) -> list[str]:
    head = name.rpartition(".")[0]
    return [head] if head else []
