"""Ask a device where it stands: first by what it keeps at hand for that, then by asking its agent.

It does not know what a status says, but that the bulletin is good for good news only: a device that says so
of itself serves and is well, and all that is out of order is asked about at the agent, now.
"""

from typing import Any

from slmops import __version__
from slmops.fleet import agent, commands
from slmops.fleet.ssh import Link
from slmops.telemetry import bulletin


def status(link: Link, *, exact: bool = False) -> dict[str, Any]:
    """Return what the agent's verb `status` answers; raise what `agent.call` raises.

    With `exact` it counts up to this moment, and the device starts its agent for it.
    """
    return (None if exact else glance(link)) or agent.call(link, "status")


def glance(link: Link) -> dict[str, Any] | None:
    """Return the status of a device that is well and says so; None where the agent must be asked.

    What it tells is `bulletin.FRESH` seconds old at most. Nothing of ours is started there.
    """
    lines: list[str] = []
    link.run(commands.glance(link.device.root), (), lines.append)
    said = bulletin.parse(lines, __version__)
    return said if said is not None and said.get("healthy") is True else None
