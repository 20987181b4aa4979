"""Say what this device is: its machine, its Python, its disk, its clock, and who would start it after a boot.

Nothing is changed. The machine is told as `slmops.profile.reading` has it, so that the operator can find the
profile that matches.
"""

from __future__ import annotations

import getpass
import importlib.util
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slmops import __version__
from slmops.device import boots, limit, service
from slmops.device.places import Places
from slmops.profile.reading import PROBE_SCRIPT, read_sections

MODULES = ("bz2", "ctypes", "hashlib", "lzma", "sqlite3", "ssl", "venv", "zlib")
"""Parts of the standard library that some systems leave out."""
_COMPILED = {"bz2": "_bz2", "ctypes": "_ctypes", "lzma": "_lzma", "sqlite3": "_sqlite3", "ssl": "_ssl"}


def probe(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Return {agent, facts, python, service, disk, clock, user, boot}; bytes and seconds."""
    script = limit.run(["sh", "-s", str(places.root)], input=PROBE_SCRIPT, env={**os.environ, "LC_ALL": "C"})
    return {
        "agent": __version__,
        "facts": asdict(read_sections(script.stdout)),
        "python": _python(),
        "service": service.outlook(places),
        "disk": _disk(places),
        "clock": _clock(),
        "user": getpass.getuser(),
        "boot": boots.identity(),
    }


def _python() -> dict[str, Any]:
    """Return {executable, version, others, modules}: every Python on the path, and what this one has."""
    folders = [Path(folder) for folder in os.get_exec_path() if folder]
    others = {path.name for folder in folders if folder.is_dir() for path in folder.glob("python3.*[0-9]")}
    return {
        "executable": sys.executable,
        "version": ".".join(map(str, sys.version_info[:3])),
        "others": sorted(others),
        "modules": {
            name: importlib.util.find_spec(_COMPILED.get(name, name)) is not None for name in MODULES
        },
    }


def _disk(places: Places) -> dict[str, Any]:
    """Return {free, inodes_free, read_only, writable} of where the agent lies or would lie."""
    there = next(folder for folder in (places.root, *places.root.parents) if folder.is_dir())
    seen = os.statvfs(str(there))
    return {
        "free": seen.f_bavail * seen.f_frsize,
        # Some file systems make inodes as they need them, and count none.
        "inodes_free": seen.f_favail if seen.f_files else None,
        "read_only": bool(seen.f_flag & os.ST_RDONLY),
        "writable": os.access(str(there), os.W_OK | os.X_OK),
    }


def _clock() -> dict[str, Any]:
    """Return {now, synchronised}: Unix time, and whether a time server set it (None: nobody knows)."""
    known = Path("/run/systemd/timesync").is_dir()
    return {
        "now": time.time(),
        "synchronised": Path("/run/systemd/timesync/synchronized").exists() if known else None,
    }
