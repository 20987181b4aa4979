"""A signature over an artifact's files that the public `model_signing` verifies: a sigstore bundle.

It proves where files come from and that none was changed, to whoever has the public key and knows nothing of
slmops. It has no counter and no expiry and names no device, so devices ask for more.
Sources: github.com/sigstore/model-transparency, docs/model_signing_format.md; in-toto attestation, DSSE v1.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from slmops import digest as digests
from slmops.artifact.manifest import Artifact
from slmops.errors import IntegrityError

FILE_NAME = "model.sig"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_PAYLOAD = "application/vnd.in-toto+json"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_HASHES: dict[int, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    256: hashes.SHA256,
    384: hashes.SHA384,
    521: hashes.SHA512,
}
"""By the size of a curve, what is signed of a message."""

Key = ec.EllipticCurvePrivateKey


def make_key(path: Path) -> None:
    """Make a key on the curve P-256 at `path`, for its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.touch(mode=0o600)
    path.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*form))


def load_key(path: Path) -> Key:
    """Read a private key, PEM or OpenSSH; raise IntegrityError when it is on none of the curves there are."""
    data = path.read_bytes()
    try:
        if b"OPENSSH" in data[:40]:
            key: Any = serialization.load_ssh_private_key(data, None)
        else:
            key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IntegrityError(f"{path} is no private key without a passphrase: {error}") from error
    if not isinstance(key, Key) or key.curve.key_size not in _HASHES:
        raise IntegrityError(
            f"{path}: model_signing verifies elliptic curve keys alone",
            remedy="Give another --key, such as one of ssh-keygen -t ecdsa, or none.",
        )
    return key


def public_pem(key: Key) -> bytes:
    """Return the public half, as `model_signing verify key --public_key` reads it."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def statement(name: str, built: Artifact) -> bytes:
    """Return what is signed: each file of an artifact by name and digest, and one digest over all of them."""
    files = sorted((path, digests.hexdigits(blob.digest)) for path, blob in built.files)
    whole = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in files)).hexdigest()
    said = {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": whole}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [FILE_NAME],
            },
            "resources": [{"name": path, "algorithm": "sha256", "digest": digest} for path, digest in files],
        },
    }
    return json.dumps(said).encode()


def bundle(payload: bytes, key: Key) -> bytes:
    """Return a sigstore bundle: a statement in an envelope, signed."""
    enveloped = f"DSSEv1 {len(_PAYLOAD)} {_PAYLOAD} {len(payload)} ".encode() + payload
    signature = key.sign(enveloped, ec.ECDSA(_HASHES[key.curve.key_size]()))
    said = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(public_pem(key)).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(said).encode()
