"""What this machine is: whether what was built for another one may run here.

Law: what the machine does not say is not held against it; an emulator shows the features of its host.
"""

from __future__ import annotations

import os
from pathlib import Path

from slmops.artifact.manifest import Entry
from slmops.errors import DoesNotFitError
from slmops.profile.reading import MARK, read_sections

CPUINFO = Path("/proc/cpuinfo")
_WORD = {"x86_64": "flags", "aarch64": "Features", "armv7l": "Features"}
"""What /proc/cpuinfo calls the features, by architecture."""


def refuse_other(entry: Entry) -> None:
    """Raise DoesNotFitError when an artifact is for another architecture, or for features this one lacks."""
    here = os.uname().machine
    if here != entry.arch:
        raise DoesNotFitError(f"the artifact is for {entry.arch}, this device is {here}")
    there = features(here, CPUINFO.read_text(errors="replace") if CPUINFO.is_file() else "")
    lacking = sorted(set(entry.features) - there) if there else []
    if lacking:
        raise DoesNotFitError(
            f"the artifact was built for a cpu with {', '.join(lacking)}, which this one has not",
            remedy="Give the device a profile that it is (slmops profile detect HOST), and build for that.",
        )


def features(arch: str, cpuinfo: str) -> frozenset[str]:
    """Return the features that every core has; none when the text is not of this architecture."""
    if not any(line.startswith(_WORD.get(arch, "\n")) for line in cpuinfo.splitlines()):
        return frozenset()
    return frozenset(read_sections(f"{MARK}cpuinfo\n{cpuinfo}\n{MARK}end\n").features)
