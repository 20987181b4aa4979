"""The agent as one file: the device room and the standard-library files it shares, in a .pyz.

The same sources give the same bytes, so an agent is named by its digest. It is put together from
this installation's own files; no code of the device room is imported here.
"""

import ast
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from slmops import digest as digests

PACKAGE = Path(__file__).parent.parent
ENTRY = "slmops.device.main"
LAUNCH = """\
import sys
from slmops.device.main import main
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Bundle:
    """The agent's bytes and the tag it goes by on devices."""

    data: bytes
    tag: str


@cache
def bundle() -> Bundle:
    """Return the agent, put together once a process."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_entry("__main__.py"), LAUNCH)
        for name in sorted(modules()):
            path = _source(name)
            archive.writestr(_entry(path.relative_to(PACKAGE.parent).as_posix()), path.read_bytes())
    data = packed.getvalue()
    return Bundle(data, digests.short(digests.of_bytes(data)))


def modules() -> set[str]:
    """Return every module of slmops that the agent imports, itself and their packages included."""
    found: set[str] = set()
    ahead = [ENTRY]
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += [*_parents(name), *_imports(_source(name))]
    return found


def _imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == "slmops" and _source(name).exists()]


def _parents(name: str) -> list[str]:
    head = name.rpartition(".")[0]
    return [head] if head else []


def _source(name: str) -> Path:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry
