"""Attest what this device runs: a document signed with a key that is made here and never leaves.

    ROOT/identity_key, ROOT/identity_key.pub    made at the first enroll, for the owner alone

Law: no activation fails here for want of an attestation. A device without ssh-keygen, or whose key cannot be
read, says nothing; an operator who has met its key before confirms nothing without it.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from slmops.artifact import attestation as attestations
from slmops.artifact import sign
from slmops.artifact import trust as trusts
from slmops.artifact.attestation import Attestation
from slmops.device import talk, trust
from slmops.device.places import Places, write
from slmops.errors import SlmopsError

PATIENCE = 30.0
"""Seconds that signing may take on a device that is slow and busy."""


def make_key(places: Places) -> None:
    """Make the device's key where there is none, and can be one; the caller holds the device's lock."""
    if places.identity_key.exists():
        return
    with suppress(SlmopsError, OSError), tempfile.TemporaryDirectory(dir=str(places.run)) as folder:
        made = Path(folder) / "key"
        sign.make_key(made, "slmops device")
        # The private one last: where it is, the public one is that of it.
        write(_public(places), made.with_suffix(".pub").read_bytes())
        write(places.identity_key, made.read_bytes())


def attested(places: Places, said: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Return a verb's answer with its `attestation`: {document, signature, key}, or null.

    `said` is the request: its `nonce`, and the epoch of its `lease`. Only what passed is attested.
    """
    found = None
    if answer["outcome"] == "pass":
        # A ValueError is what a text raises that nobody can write down.
        with suppress(SlmopsError, OSError, ValueError):
            found = _attest(places, said, answer["evidence"])
    return {**answer, "attestation": found}


def _attest(places: Places, said: dict[str, Any], evidence: dict[str, Any]) -> dict[str, str] | None:
    if not places.identity_key.exists():
        return None
    epoch = (said.get("lease") or {}).get("epoch", 0)
    document = attestations.render(
        Attestation(
            device=str(places.read_config()["device"]),
            identity=trust.identity(places),
            digest=(talk.ready(places) or {}).get("digest"),
            golden=int(evidence.get("golden", 0)),
            answers=attestations.of_answers(list(evidence.get("answers", []))),
            nonce=said.get("nonce"),
            epoch=epoch,
            at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
    )
    # What nobody could read is not signed.
    attestations.parse(document)
    signature = sign.sign(document, places.identity_key, sign.ATTESTATION, patience=PATIENCE)
    key = trusts.key_text(_public(places).read_text(encoding="ascii"))
    return {"document": document.decode(), "signature": signature.decode(), "key": key}


def _public(places: Places) -> Path:
    return places.identity_key.with_suffix(".pub")
