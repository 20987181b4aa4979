"""The agent as one file: the device room and the standard-library files it shares, in a .pyz.

A second way in leads to the decoder of deltas. The same sources give the same bytes, so an agent is named
by its digest. It is put together from this installation's own files; no code of the device room is imported
here.
"""

import io
import zipfile
from dataclasses import dataclass
from functools import cache
from threading import Lock

from slmops import digest as digests
from slmops.artifact import carried
from slmops.artifact.carried import PACKAGE
from slmops.fleet import commands

ROOM = PACKAGE / "device"
DECODER = "slmops.delta.apply_delta"
LAUNCH = f"""\
import sys
if sys.version_info < (3, 9):
    sys.exit({commands.NO_PYTHON})
if sys.argv[1:2] == ["--apply-delta"]:
    from {DECODER} import main
    sys.exit(main(sys.argv[2:]) if sys.argv[2:] else 0)
from slmops.device.main import main
sys.exit(main(sys.argv[1:]))
"""
"""Any Python reads this, and says when it is too old for the rest. The decoder wants numpy: a Python that has
it runs the agent's file for that alone."""

_MAKING = Lock()


@dataclass(frozen=True)
class Bundle:
    """The agent's bytes and the tag it goes by on devices."""

    data: bytes
    tag: str


def bundle() -> Bundle:
    """Return the agent, put together once a process: many threads ask for it at once."""
    with _MAKING:
        return _bundle()


@cache
def _bundle() -> Bundle:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_entry("__main__.py"), LAUNCH)
        for name in sorted(modules() | decoder()):
            path = carried.source(name)
            archive.writestr(_entry(path.relative_to(PACKAGE.parent).as_posix()), path.read_bytes())
    data = packed.getvalue()
    return Bundle(data, digests.short(digests.of_bytes(data)))


def modules() -> set[str]:
    """Return every module of the device room, and what of slmops those import."""
    return carried.modules({f"slmops.device.{path.stem}" for path in ROOM.glob("[a-z]*.py")})


def decoder() -> set[str]:
    """Return the decoder of deltas, and what of slmops it imports."""
    return carried.modules({DECODER})


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry
