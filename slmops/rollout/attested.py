"""Check what a device attests: that it is this device that speaks, now, and that it runs what it was brought.

Who a device is, is known from the first time it was met: its key is kept by whoever calls here.
"""

from collections.abc import Mapping
from typing import Any

from slmops.artifact import attestation as attestations
from slmops.artifact import sign
from slmops.artifact import trust as trusts
from slmops.errors import IntegrityError

ANEW = (
    "Look whose device it is. One that lost its key is set up anew: slmops device uninstall DEVICE "
    "--fleet FLEET.yaml, which forgets the key that is known here, then deploy again."
)


def check(
    device: str, slot: str, nonce: str, said: Mapping[str, Any] | None, known_key: str | None
) -> dict[str, Any]:
    """Return evidence of what a device attested; raise IntegrityError when it does not hold.

    `said` is the `attestation` of its answer, {document, signature, key} or None; `slot` what it must run,
    `nonce` what it was told in this session, `known_key` its public key if it was met before. Returns
    {by, key, digest, golden, answers, identity, epoch, at}: `by` is the key's fingerprint, and None alone
    where the device attests nothing and never did, as one without ssh-keygen.
    """
    if said is None and known_key is not None:
        # Else who has no key would be believed where who has another one is not.
        raise IntegrityError(
            f"{device}: it attests nothing, and has done so before with the key "
            f"{trusts.fingerprint(trusts.key_text(known_key))}",
            remedy=f"See that ssh-keygen is on the device, and deploy again. {ANEW}",
        )
    if said is None:
        return {"by": None}
    try:
        document, signature, key = (str(said[name]) for name in ("document", "signature", "key"))
    except KeyError as error:
        raise IntegrityError(f"{device}: its attestation names no {error}") from error
    key = trusts.key_text(key)
    if known_key is not None and key != trusts.key_text(known_key):
        raise IntegrityError(
            f"{device}: it attests with another key than the one it had: expected "
            f"{trusts.fingerprint(trusts.key_text(known_key))}, got {trusts.fingerprint(key)}",
            remedy=ANEW,
        )
    by = trusts.fingerprint(key)
    if not sign.signers(document.encode(), [signature.encode()], {by: key}, sign.ATTESTATION):
        raise IntegrityError(f"{device}: the signature of its attestation does not hold")
    found = attestations.parse(document.encode())
    for what, expected, got in (
        ("device", device, found.device),
        ("artifact", f"sha256:{slot}", found.digest),
        ("session", nonce, found.nonce),
    ):
        if got != expected:
            raise IntegrityError(f"{device}: it attests another {what}: expected {expected}, got {got}")
    return {
        "by": by,
        "key": key,
        "digest": found.digest,
        "golden": found.golden,
        "answers": found.answers,
        "identity": found.identity,
        "epoch": found.epoch,
        "at": found.at,
    }
