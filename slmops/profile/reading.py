"""What a device says of itself, read from the texts of /proc and a few commands.

One shell script asks everything at once (`PROBE_SCRIPT`); `read_sections` reads its answer. Neither knows how
the script gets to the device or the answer back.

Laws: a section that is missing, empty or strange makes its fact unknown, never an error; what stands before
the first mark (a login banner) is ignored; `facts_from(asdict(facts)) == facts`.
Runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

MARK = "@@slmops "

PROBE_SCRIPT = r"""# Says what this device is, and changes nothing. $1: the folder whose disk is meant.
say() { printf '\n@@slmops %s\n' "$1"; }
dir=${1:-$HOME}
while [ ! -d "$dir" ] && [ "$dir" != / ]; do dir=$(dirname -- "$dir"); done
say uname; uname -m 2>/dev/null
say bits; getconf LONG_BIT 2>/dev/null
say cpuinfo; cat /proc/cpuinfo 2>/dev/null
say meminfo; cat /proc/meminfo 2>/dev/null
say disk; df -kP "$dir" 2>/dev/null
say os; cat /etc/os-release 2>/dev/null
say board
{ tr -d '\000' < /proc/device-tree/model || cat /sys/class/dmi/id/product_name; } 2>/dev/null
say libc; getconf GNU_LIBC_VERSION 2>/dev/null || ldd --version 2>&1
say python; python3 --version 2>&1
say end
exit 0
"""
"""POSIX shell, for busybox too: `sh -s FOLDER < script`, or `sh -c script slmops FOLDER`."""

_ARM_PARTS = {
    0xB76: "ARM1176",
    0xC07: "Cortex-A7",
    0xC08: "Cortex-A8",
    0xC09: "Cortex-A9",
    0xC0D: "Cortex-A17",
    0xC0E: "Cortex-A17",
    0xC0F: "Cortex-A15",
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD0E: "Cortex-A76AE",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD42: "Cortex-A78AE",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD48: "Cortex-X2",
    0xD49: "Neoverse-N2",
    0xD4B: "Cortex-A78C",
    0xD4D: "Cortex-A715",
    0xD4E: "Cortex-X3",
    0xD4F: "Neoverse-V2",
    0xD80: "Cortex-A520",
    0xD81: "Cortex-A720",
}
"""Names of Arm Ltd.'s own cores by the part number of their main ID register."""

_ARM_LTD = 0x41
_ARCH = {"arm64": "aarch64", "amd64": "x86_64", "armv8l": "armv7l"}
_NARROW = {"aarch64": "armv7l", "x86_64": "i686"}


@dataclass(frozen=True)
class DeviceFacts:
    """What one device said; None or empty where it did not say."""

    arch: str | None = None
    """x86_64, aarch64, armv7l: what programs run here, so armv7l for a 32-bit system on a 64-bit kernel."""
    cpu_model: str | None = None
    cores: int | None = None
    features: tuple[str, ...] = ()
    """Instruction-set features that all cores have."""
    memory_total: int | None = None
    memory_available: int | None = None
    disk_free: int | None = None
    """Bytes free to this user in the folder that was asked for."""
    os: str | None = None
    libc: str | None = None
    python: str | None = None
    board: str | None = None


def read_sections(text: str) -> DeviceFacts:
    """Read what `PROBE_SCRIPT` printed."""
    said = _sections(text)
    cpus = _cpus(said.get("cpuinfo", ""))
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB$", said.get("meminfo", ""), re.MULTILINE))
    return DeviceFacts(
        arch=_arch(said.get("uname", ""), said.get("bits", "")),
        cpu_model=_cpu_model(cpus),
        cores=sum("processor" in cpu for cpu in cpus) or None,
        features=_features(cpus),
        memory_total=_kilobytes(memory.get("MemTotal")),
        memory_available=_kilobytes(memory.get("MemAvailable")),
        disk_free=_disk_free(said.get("disk", "")),
        os=_os(said.get("os", "")),
        libc=_libc(said.get("libc", "")),
        python=_first(r"^Python (\S+)", said.get("python", "")),
        board=said.get("board", "").strip("\0 \n") or None,
    )


def facts_from(said: Mapping[str, Any]) -> DeviceFacts:
    """Return the facts that were sent as `asdict(facts)`; keys of a newer version are ignored."""
    known = {field.name: said[field.name] for field in fields(DeviceFacts) if field.name in said}
    return DeviceFacts(**{**known, "features": tuple(known.get("features", ()))})


def _sections(text: str) -> dict[str, str]:
    """Split the answer at its marks; without the `end` mark the last section may be cut and is dropped."""
    parts = [part.partition("\n") for part in ("\n" + text.replace("\r\n", "\n")).split("\n" + MARK)[1:]]
    whole = parts if parts and parts[-1][0].strip() == "end" else parts[:-1]
    return {name.strip(): body.strip("\n") for name, _, body in whole}


def _cpus(cpuinfo: str) -> list[dict[str, str]]:
    """Return the blocks of /proc/cpuinfo as key and value."""
    blocks = re.split(r"\n\s*\n", cpuinfo)
    pairs = [re.findall(r"^([^:\n]*[^:\s])\s*:[ \t]*(.*?)[ \t]*$", block, re.MULTILINE) for block in blocks]
    return [dict(found) for found in pairs]


def _arch(uname: str, bits: str) -> str | None:
    """Name the machine as programs see it."""
    arch = _ARCH.get(uname.strip(), uname.strip())
    return (_NARROW.get(arch, arch) if bits.strip() == "32" else arch) or None


def _cpu_model(cpus: list[dict[str, str]]) -> str | None:
    """Name the cores: by their part numbers on ARM, where "model name" says little, else by "model name"."""
    names = [name for name in map(_core, cpus) if name]
    kinds = list(dict.fromkeys(names))
    if len(kinds) > 1:
        return " + ".join(f"{names.count(kind)}x {kind}" for kind in kinds)
    return kinds[0] if kinds else None


def _core(cpu: dict[str, str]) -> str | None:
    """Name one core."""
    if "CPU part" not in cpu:
        return cpu.get("model name")
    try:
        implementer, part = int(cpu.get("CPU implementer", "0"), 16), int(cpu["CPU part"], 16)
    except ValueError:
        return cpu.get("model name")
    name = _ARM_PARTS.get(part) if implementer == _ARM_LTD else None
    return name or f"ARM core 0x{implementer:02x}/0x{part:03x}"


def _features(cpus: list[dict[str, str]]) -> tuple[str, ...]:
    """Return the features that every core has, in the order of the first."""
    of_each = [words.split() for words in (cpu.get("flags") or cpu.get("Features") for cpu in cpus) if words]
    if not of_each:
        return ()
    common = set(of_each[0]).intersection(*of_each[1:])
    return tuple(word for word in of_each[0] if word in common)


def _kilobytes(count: str | None) -> int | None:
    return int(count) * 1024 if count else None


def _disk_free(df: str) -> int | None:
    """Read the available kilobytes of `df -kP`: counted from the percentage, as names may hold spaces."""
    found = _first(r"\s\d+\s+\d+\s+(-?\d+)\s+(?:\d+%|-)\s+/", df)
    return None if found is None else max(0, int(found)) * 1024


def _os(release: str) -> str | None:
    """Return PRETTY_NAME, or ID and VERSION_ID, of os-release."""
    said = {key: value.strip("\"'") for key, value in re.findall(r"^(\w+)=(.*?)\s*$", release, re.MULTILINE)}
    name = said.get("PRETTY_NAME") or " ".join(said[key] for key in ("ID", "VERSION_ID") if said.get(key))
    return name or None


def _libc(text: str) -> str | None:
    """Read glibc's version from getconf or ldd, musl's from its ldd."""
    glibc = _first(r"^glibc (\d+\.\d+)", text) or _first(r"^ldd \(.*(?:GNU|GLIBC).*\).* (\d+\.\d+)\s*$", text)
    if glibc:
        return f"glibc {glibc}"
    musl = _first(r"^Version (\d+\.\d+\S*)", text) if text.startswith("musl libc") else None
    return f"musl {musl}" if musl else None


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else None
