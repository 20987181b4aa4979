"""What a device says of itself unasked: where it stood a moment ago, in a line that is not believed for long.

Its supervisor keeps the line at hand, so that whoever looks starts no program of ours there: the device's
shell prints its folder, the line, then the machine's clock and boot. How the line is kept is not known here.

Laws: `parse` gives what `render` was given, or nothing; a line that is torn, old, of another boot, another
folder or another version of slmops is no answer, and whoever gets none asks the agent.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from slmops import wire
from slmops.wire import Reply

KIND = "bulletin"
FRESH = 15.0
"""Seconds that a bulletin is believed: longer than the supervisor takes from one to the next."""


def render(status: dict[str, Any], *, folder: str, boot: str, at: float) -> str:
    """Return the line: `status` as the agent would answer it, told `at` seconds after this `boot`."""
    said = {"status": status, "folder": folder, "boot": boot, "at": at}
    return wire.render_reply(Reply(KIND, {**said, "sum": _sum(said)}))


def parse(lines: Sequence[str], version: str) -> dict[str, Any] | None:
    """Return the status in what the shell printed, when it can be believed; None sends for the agent.

    `lines` are: the folder, the line, the machine's uptime as in /proc/uptime, its boot; what a login shell
    prints before them is noise. `version` is the slmops that looks.
    """
    if len(lines) < 4:  # noqa: PLR2004 - as many as the docstring says
        return None
    folder, line, uptime, boot = lines[-4:]
    reply = wire.parse_reply(line)
    if reply is None or reply.kind != KIND:
        return None
    said = dict(reply.said)
    status, at = said.get("status"), said.get("at")
    if said.pop("sum", None) != _sum(said) or not isinstance(status, dict) or not isinstance(at, float):
        return None
    if (said.get("folder"), said.get("boot"), status.get("agent")) != (folder, boot, version):
        return None
    return status if 0 <= _seconds(uptime) - at <= FRESH else None


def _seconds(uptime: str) -> float:
    """Return the first word of /proc/uptime; minus one for what is no such line."""
    try:
        return float(uptime.split(maxsplit=1)[0])
    except (IndexError, ValueError):
        return -1.0


def _sum(said: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
