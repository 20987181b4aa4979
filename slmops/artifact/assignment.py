"""The assignment document: which artifact one device gets, said by the one who rolls out.

A release says what exists; an assignment says who gets it. It names the device twice, by what the operator
calls it and by what the device calls itself, and is good for one rollout: later ones have higher epochs, and
a device that has seen one refuses lower ones. The nonce came from the device itself, so an assignment that
repeats it was made after that, whatever any clock says; one for a device with no link has none.

Laws: `parse(render(a)) == a` and `render(parse(b)) == b`; no bytes make `parse` raise anything but
IntegrityError; an assignment is valid until some time not before it was issued.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields

from slmops import digest as digests
from slmops.artifact import statement
from slmops.artifact.manifest import canonical
from slmops.errors import IntegrityError

KIND = "slmops-assignment"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HEX32 = re.compile(r"[0-9a-f]{32}")
_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Assignment:
    """One device's part in a rollout, as it is signed."""

    device: str
    """What the operator calls the device."""
    identity: str | None
    """What the device calls itself; None where it has never been asked: an unattended bundle."""
    release: str
    """Digest of the release's index."""
    slot: str
    """The artifact that the device gets: hex digits of its manifest's digest."""
    epoch: int
    """Number of the rollout; later rollouts have higher ones."""
    issued: str
    valid_until: str
    nonce: str | None
    """What the device said in this session; None for a device with no link."""


def render(assignment: Assignment) -> bytes:
    """Return the bytes of the document: what the rollout key signs."""
    return canonical({"type": KIND, **asdict(assignment)})


def parse(data: bytes) -> Assignment:
    """Read an assignment; raise IntegrityError unless it is one, in its one form."""
    said = statement.read(data, KIND, [field.name for field in fields(Assignment)])
    identity, nonce = said["identity"], said["nonce"]
    found = Assignment(
        device=statement.text(said["device"], _NAME, "device"),
        identity=None if identity is None else statement.text(identity, _HEX32, "identity"),
        release=digests.parse(str(said["release"])),
        slot=statement.text(said["slot"], _HEX64, "slot"),
        epoch=statement.count(said["epoch"], "epoch"),
        issued=statement.moment(said["issued"], "issued"),
        valid_until=statement.moment(said["valid_until"], "valid_until"),
        nonce=None if nonce is None else statement.text(nonce, _HEX32, "nonce"),
    )
    if found.valid_until < found.issued:
        raise IntegrityError(f"assignment: valid until {found.valid_until}, before it was issued")
    return found
