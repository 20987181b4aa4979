"""Pack a wheel so that the same files give the same bytes: sorted, without times, with LZMA.

Knows neither packages nor platforms.

Laws: bytes depend on names and contents alone; RECORD, the wheel's own list of digests, comes last and
names every other file.
"""

import base64
import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(info: str, files: Mapping[str, bytes], to: Path | IO[bytes]) -> None:
    """Write `files`, by their paths, as a wheel; `info` is the folder that RECORD goes to."""
    named = f"{info}/RECORD"
    lines = [f"{name},{_digest(data)},{len(data)}\n" for name, data in sorted(files.items())]
    record = {named: "".join([*lines, f"{named},,\n"]).encode()}
    with zipfile.ZipFile(to, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in [*sorted(files.items()), *record.items()]:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3  # Unix, wherever this runs
            entry.external_attr = 0o100444 << 16
            entry.compress_type = zipfile.ZIP_LZMA
            archive.writestr(entry, data)


def unpack(wheel: Path, kept: Callable[[str], bool]) -> tuple[str, dict[str, bytes]]:
    """Return the folder of a wheel's description, and the files that `kept` says yes to."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        return info, {name: archive.read(name) for name in names if kept(name)}


def sizes(wheel: Path) -> list[int]:
    """Return how many bytes each file of a wheel has, unpacked."""
    with zipfile.ZipFile(wheel) as archive:
        return [entry.file_size for entry in archive.infolist()]


def _digest(data: bytes) -> str:
    """Return a file's digest as RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
