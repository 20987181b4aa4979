"""Vouch: have an assignment signed, and find out whether those who are trusted have signed what they must.

What must be signed by whom is `trust`'s to say, and who signed is `sign`'s; here they meet.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from slmops.artifact import assignment as assignments
from slmops.artifact import sign
from slmops.artifact import trust as trusts
from slmops.artifact.assignment import Assignment
from slmops.artifact.trust import RELEASE, ROLLOUT, SignedTrust, Trust


def release(trust: Trust, index: bytes, signatures: Iterable[bytes], what: str = "the release") -> None:
    """Raise IntegrityError unless enough release keys signed an index."""
    trust.require(RELEASE, sign.signers(index, signatures, trust.of(RELEASE), sign.RELEASE), what)


def assignment(trust: Trust, document: bytes, signatures: Iterable[bytes]) -> None:
    """Raise IntegrityError unless enough rollout keys signed an assignment."""
    signers = sign.signers(document, signatures, trust.of(ROLLOUT), sign.ASSIGNMENT)
    trust.require(ROLLOUT, signers, "the assignment")


def advance(known: Trust | None, signed: SignedTrust) -> Trust:
    """Return the trust document in force once `signed` was seen; raise IntegrityError if it may not be."""
    candidate = signed.trust
    keys = {**(known.keys if known else {}), **candidate.keys}
    return trusts.advance(
        known, candidate, sign.signers(signed.document, signed.signatures, keys, sign.TRUST)
    )


def assign(said: Assignment, key: Path) -> dict[str, str]:
    """Return an assignment as a device is told it, signed with a rollout key: {document, signature}."""
    document = assignments.render(said)
    return {"document": document.decode(), "signature": sign.sign(document, key, sign.ASSIGNMENT).decode()}
