"""With whose word a rollout speaks to devices: trust documents, a rollout key, and which rollout it is."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.artifact import trust as trusts
from slmops.artifact import vouch
from slmops.artifact.assignment import Assignment
from slmops.artifact.trust import SignedTrust, Trust

VALID = 86400
"""Seconds that an assignment is good for."""


@dataclass(frozen=True)
class Mandate:
    """What one rollout is begun with."""

    chain: tuple[SignedTrust, ...]
    """The operator's trust documents, oldest first."""
    key: Path | None
    """A rollout key; None where nobody has that role, and no assignment is asked for."""
    epoch: int
    """Higher than that of every rollout before: a device that has seen it takes nothing from those."""

    @property
    def trust(self) -> Trust:
        """Return the trust document in force."""
        return self.chain[-1].trust

    @property
    def digests(self) -> set[str]:
        """Return the digest of every trust document."""
        return {signed.digest for signed in self.chain}

    def said(self) -> list[dict[str, Any]]:
        """Return the trust documents as a device is told them."""
        return [trusts.said(signed) for signed in self.chain]


def assign(
    mandate: Mandate,
    device: str,
    release: str,
    slot: str,
    greeted: dict[str, Any],
    *,
    valid: int = VALID,
) -> dict[str, str] | None:
    """Return the signed assignment of a slot of a release (its digest) to a device, as `prepare` takes it.

    `greeted` is what the device answered to `enroll`: its identity and a nonce; without them the assignment
    is one for a device with no link. It is good for `valid` seconds. None where nobody has the rollout role.
    """
    if mandate.key is None:
        return None
    issued = time.time()
    said = Assignment(
        device=device,
        identity=greeted.get("identity"),
        release=release,
        slot=slot,
        epoch=mandate.epoch,
        issued=_moment(issued),
        valid_until=_moment(issued + valid),
        nonce=greeted.get("nonce"),
    )
    return vouch.assign(said, mandate.key)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
