"""Ask a live host what it is, over nothing but SSH and a POSIX shell."""

from collections.abc import Sequence

from slmops.errors import DeviceError
from slmops.fleet import commands
from slmops.fleet.ssh import Link
from slmops.profile.reading import PROBE_SCRIPT, DeviceFacts, read_sections


def facts(link: Link) -> DeviceFacts:
    """Return the facts of the host; nothing is installed and nothing is left there."""
    lines: list[str] = []
    done = link.run(commands.script(link.device.root), [PROBE_SCRIPT.encode()], lines.append)
    if done.code != 0:
        raise DeviceError(f"{link.device.name}: the probe failed: {done.tail.strip()[-300:]}")
    return read_sections("\n".join(lines))


def lacking(link: Link, modules: Sequence[str]) -> str:
    """Return in words what the device's runtime lacks of `modules`; empty when nothing is missing."""
    runtime = " ".join(link.device.python)
    lines: list[str] = []
    done = link.run(commands.lacks(link.device.python, modules), (), lines.append)
    found = [line for line in lines if line.startswith("lacks:")]
    if done.code != 0 or not found:
        last = done.tail.strip().splitlines()[-1:] or [f"exit code {done.code}"]
        return f"{runtime} does not start: {last[0][-200:]}"
    missing = found[0].split()[1:]
    return f"{runtime} lacks {', '.join(missing)}" if missing else ""
