"""Where this device stands, told to whoever asks for its status."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from slmops import __version__
from slmops.device import child, damage, hold, journal, ready, service, shun, slots, trust
from slmops.device.places import Places, read_json
from slmops.errors import IntegrityError
from slmops.telemetry.summary import quantile
from slmops.telemetry.sums import Sums


def status(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Return release, digest, health, since when, the last failure and the telemetry's summary.

    `slots` names those that are whole, as far as is known; a release's `damage` says what was found rotten;
    `supervised`, that somebody is there who starts the daemon again.
    """
    told = tell(places, Sums(places.spool), memory(places), patience=5.0)
    return {**told, "supervised": service.alive(places) is not None}


def tell(places: Places, sums: Sums, taken: dict[str, int] | None, *, patience: float) -> dict[str, Any]:
    """Return what `status` does, in the words of the supervisor.

    `taken` is `memory`, and the daemon is waited for so many seconds. `capture` in what is returned is the
    share of requests whose words are kept here, redacted.
    """
    rotten = damage.known(places)
    standing = journal.standing(places)
    daemon = read_json(places.daemon) or {}
    # Where no router runs just now, the socket would let us wait for one.
    serving = ready.ready(places, patience) if daemon.get("child") else None
    seen = sums.of(f"sha256:{standing.slot}")
    return {
        "agent": __version__,
        "trust": trust.told(places),
        "standing": asdict(standing),
        "release": _release(places, standing.slot),
        "previous": _release(places, standing.previous),
        "supervised": True,
        "healthy": serving is not None and serving.get("digest") == f"sha256:{standing.slot}",
        "port": ready.port(places),
        "lease": hold.told(places),
        "quarantined": shun.told(places),
        "slots": [name for name in slots.names(places) if name not in rotten],
        "held": slots.held(places),
        "daemon": daemon,
        "memory": taken,
        "capture": ((standing.settings or read_json(places.config) or {}).get("daemon") or {}).get("capture"),
        "telemetry": asdict(seen),
        "p95_seconds": quantile(seen.seconds, 0.95),
    }


def _release(places: Places, slot: str | None) -> dict[str, Any] | None:
    if slot is None or not places.slot(slot).exists():
        return None
    digest = f"sha256:{slot}"
    try:
        said = slots.description(places, slot)
        size = (places.files(slot) / said.model).stat().st_size
    except (IntegrityError, OSError) as error:
        return {"reference": None, "digest": digest, "memory_bytes": 0, "damage": str(error)}
    return {
        "reference": said.reference,
        "digest": digest,
        "format": said.format,
        "type": said.type,
        "adapter": said.adapter,
        "memory_bytes": said.memory_bytes,
        "model_bytes": size,
        "context": said.context,
        "predicted": said.predicted,
        "damage": damage.known(places).get(slot, {}).get("wrong"),
    }


def memory(places: Places) -> dict[str, int] | None:
    """Return what the daemon has taken, in bytes: its peak, and what of that is the mapped model."""
    slot = journal.standing(places).slot
    if slot is None:
        return None
    try:
        return child.memory(places, slot, slots.description(places, slot).model)
    except (IntegrityError, OSError):
        return None
