"""Read how hard pressed this process is: its control group, the kernel's stalls, the thermal zones.

It does not know what is done about it (`pressure`). Law: a file that is not there, or says something
odd, costs its own figure and nothing more. Cheap enough for once a second: some twenty small files, all in
the kernel's memory.
"""

from __future__ import annotations

from pathlib import Path

from slmops.daemon import pressure
from slmops.daemon.pressure import Reading

GROUPS = Path("sys/fs/cgroup")
ZONES = Path("sys/class/thermal")
RASPBERRY = Path("sys/devices/platform/soc/soc:firmware/get_throttled")
THROTTLED_NOW = 0b1111
"""Of what a Raspberry Pi's firmware says, the bits that speak of this moment."""


def read(root: Path = Path("/")) -> Reading:
    """Return the reading of this moment; `root` is where /proc and /sys are."""
    said = pressure.group(_text(root / "proc/self/cgroup"))
    own = root / GROUPS / (said or "/").lstrip("/")
    limit, used = pressure.tightest(_bounds(root / GROUPS, own) if said else [])
    stalls = _text(own / "memory.pressure") if said else ""
    some, full = pressure.psi(stalls or _text(root / "proc/pressure/memory"))
    total, available = pressure.meminfo(_text(root / "proc/meminfo"))
    events = pressure.counts(_text(own / "memory.events")) if said else {}
    return Reading(
        limit=limit,
        used=used,
        total=total,
        available=available,
        some=some,
        full=full,
        high=events.get("high"),
        killed=events.get("oom_kill"),
        celsius=_temperatures(root / ZONES),
        throttled=_throttled(root),
    )


def _bounds(top: Path, own: Path) -> list[tuple[int, int]]:
    """Return (limit, used) of each group from `own` upwards that has a limit."""
    found = []
    for folder in (own, *own.parents):
        limit = pressure.bound(_text(folder / "memory.max"))
        current = pressure.bound(_text(folder / "memory.current"))
        if limit is not None and current is not None:
            stat = pressure.counts(_text(folder / "memory.stat"))
            found.append((limit, pressure.unreclaimable(current, stat)))
        if folder == top:
            break
    return found


def _temperatures(zones: Path) -> dict[str, float]:
    found = {}
    for zone in sorted(zones.glob("thermal_zone*")):
        said = _text(zone / "temp").strip()
        if said.lstrip("-").isdigit():
            kind = _text(zone / "type").strip()
            found[f"{zone.name.removeprefix('thermal_zone')}:{kind}"] = int(said) / 1000
    return found


def _throttled(root: Path) -> bool | None:
    """Say whether the processor is slowed down: by the firmware's word, else by a cooling device at work."""
    said = _text(root / RASPBERRY).strip()
    if said:
        try:
            return bool(int(said.partition("=")[2] or said, 16) & THROTTLED_NOW)
        except ValueError:
            return None
    states = [
        _text(device / "cur_state").strip()
        for device in (root / ZONES).glob("cooling_device*")
        if _text(device / "type").strip().startswith(("cpufreq", "thermal-cpufreq", "Processor"))
    ]
    return any(state not in {"", "0"} for state in states) if states else None


def _text(path: Path) -> str:
    """Return what a file of the kernel says; nothing where there is none or it cannot be read now."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
