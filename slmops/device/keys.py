"""Say who may ask this device's daemon: keys issued, listed and revoked, as an operator wishes.

What a key is and how its file is kept, `slmops.keys` and `slmops.keep_keys` know. Law: the key itself is in
the answer to the one who made it and nowhere on the device.
"""

from __future__ import annotations

import time
from typing import Any

from slmops import keep_keys
from slmops import keys as held
from slmops.device import service
from slmops.device.places import Places, read_json
from slmops.errors import DeviceError, UsageError


def keys(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Do `action` and return {keys: those there are, without their hashes}, after `create` also {key}.

    `create` takes `name`, `role` and `lasts` in seconds, or null; `revoke` takes `key`, an id or a name.
    """
    action, issued = said["action"], {}
    if action == "create":
        _require_a_door(places)
        lasts = said.get("lasts")
        _, issued["key"] = keep_keys.create(places.keys, str(said["name"]), str(said["role"]), lasts=lasts)
    elif action == "revoke":
        keep_keys.revoke(places.keys, str(said["key"]))
    elif action != "list":
        raise UsageError(f"{action!r} is nothing to do with keys: expected create, list or revoke")
    # The first key there is shuts the door, and the daemon is to know it.
    service.nudge(places)
    try:
        there = keep_keys.read(places.keys)
    except FileNotFoundError:
        there = ()
    return {"keys": held.shown(there, time.time()), **issued}


def _require_a_door(places: Places) -> None:
    """Raise DeviceError while a daemon of before serves: it would answer whoever has no key."""
    state = read_json(places.daemon) or {}
    if state.get("child") and not (state.get("router") or {}).get("steered"):
        raise DeviceError(
            "the daemon that serves here knows no keys",
            remedy="Deploy with a newer runtime first (slmops runtime build), then create the key.",
        )
