"""Greet an operator: say which agent this is, and learn whose device it is."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from slmops import __version__, wire
from slmops.device import journal
from slmops.device.places import Places, write_json


def hello(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Say which agent this is, and make itself the one in force.

    Returns {version, tag, protocol, least, python, arch}; `tag` names the agent's own file.
    """
    places.make()
    own = Path(sys.argv[0]).resolve()
    target = f"agent/{own.name}"
    if not places.agent_link.is_symlink() or str(places.agent_link.readlink()) != target:
        _take_over(places, target)
    return {
        "version": __version__,
        "tag": own.stem,
        "protocol": wire.PROTOCOL,
        "least": wire.LEAST,
        "python": platform.python_version(),
        "arch": os.uname().machine,
    }


def _take_over(places: Places, target: str) -> None:
    """Make this agent the one in force, and tell the supervisor, where one runs."""
    from slmops.device import renew, service  # noqa: PLC0415 (needed once in an agent's life)

    renew.point(places, target)
    service.nudge(places)


def enroll(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Learn the device's settings, and whom to believe; return {identity, nonce, trust} for an assignment."""
    from slmops.device import attest, trust  # noqa: PLC0415 (a greeting alone needs none of it)

    settings = {key: said[key] for key in ("device", "profile", "runtime", "port", "service")}
    # Operators of before know no flags of the daemon.
    settings["daemon"] = said.get("daemon") or {}
    with journal.locked(places):
        answer = trust.greet(places, said["trust"])
        write_json(places.config, settings)
        attest.make_key(places)
    return answer
