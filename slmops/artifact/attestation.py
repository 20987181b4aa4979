"""The attestation document: what one device says that it runs, to be signed with the device's own key.

It names the digest that the daemon itself says it serves, and how many golden prompts it answered with what;
the nonce came from who asked, so that the document was made after that and for nobody else.

What it proves: that whoever holds the device's key said this, now. A device whose key was stolen, or whose
system lies to its agent, is beyond it.

Laws: `parse(render(a)) == a` and `render(parse(b)) == b`; no bytes make `parse` raise anything but
IntegrityError.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from slmops import digest as digests
from slmops.artifact import statement
from slmops.artifact.manifest import canonical
from slmops.errors import IntegrityError

KIND = "slmops-attestation"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HEX32 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Attestation:
    """What a device says of itself."""

    device: str
    """What the operator calls the device."""
    identity: str
    """What the device calls itself."""
    digest: str | None
    """The artifact that the daemon says it serves, as `sha256:...`; None where none answers."""
    golden: int
    """Golden prompts that it was asked."""
    answers: str | None
    """Digest of the answers to them, in order; None where there were none."""
    nonce: str | None
    """What the operator said in this session; None where nobody said any."""
    epoch: int
    """Epoch of the rollout that asked; 0 where none did."""
    at: str
    """When, by the device's clock."""


def of_answers(answers: list[Any]) -> str | None:
    """Return the digest of golden answers as they were given; None where there are none."""
    # In ASCII: a model may say half a letter, which no other encoding writes.
    return digests.of_bytes(json.dumps(answers, separators=(",", ":")).encode()) if answers else None


def render(attestation: Attestation) -> bytes:
    """Return the bytes of the document: what the device's key signs."""
    return canonical({"type": KIND, **asdict(attestation)})


def parse(data: bytes) -> Attestation:
    """Read an attestation; raise IntegrityError unless it is one, in its one form."""
    said = statement.read(data, KIND, [field.name for field in fields(Attestation)])
    nonce = said["nonce"]
    return Attestation(
        device=statement.text(said["device"], _NAME, "device"),
        identity=statement.text(said["identity"], _HEX32, "identity"),
        digest=_digest(said["digest"]),
        golden=statement.count(said["golden"], "golden"),
        answers=_digest(said["answers"]),
        nonce=None if nonce is None else statement.text(nonce, _HEX32, "nonce"),
        epoch=statement.count(said["epoch"], "epoch"),
        at=statement.moment(said["at"], "at"),
    )


def _digest(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise IntegrityError(f"attestation: expected a digest, got {str(value)[:80]!r}")
    return None if value is None else digests.parse(value)
