"""Sign with SSH keys, and find out which keys have signed.

Every device that runs sshd has `ssh-keygen`, so the verifier is already there, and operators may use an agent
or a hardware key. No cryptography is written by hand. What signatures mean is not known here: a caller says
which keys it would believe and for which purpose, and is told which of them signed; a key that signed twice
is told once. Several signatures lie in one file one after another, as certificates do.
Source: ssh-keygen(1), -Y sign and -Y verify; PROTOCOL.sshsig.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from slmops.errors import IntegrityError, MissingPartError

RELEASE = "slmops-release"
ASSIGNMENT = "slmops-assignment"
TRUST = "slmops-trust"
ATTESTATION = "slmops-attestation"
"""Namespaces: a signature made for one purpose does not hold for another."""
PATIENCE = 60.0
"""Seconds that a look at a key or a signature may take: nobody is asked anything."""
MOST = 32
"""Signatures looked at; nobody needs more, and each costs a process."""
_SIGNER = "signer@slmops"
_ARMORED = re.compile(rb"-----BEGIN SSH SIGNATURE-----\n.*?-----END SSH SIGNATURE-----\n", re.DOTALL)
_GOOD = re.compile(rb'^Good "[^"]*" signature for \S+ with \S+ key (SHA256:[A-Za-z0-9+/]{43})$', re.MULTILINE)


def make_key(path: Path, comment: str) -> None:
    """Make an ed25519 key without a passphrase at `path` (0600) and its `.pub` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _keygen(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def fingerprint(public_key: Path) -> str:
    """Return the SHA256 fingerprint of a public key file, as OpenSSH prints it."""
    return _keygen(["-l", "-E", "sha256", "-f", str(public_key)]).split()[1]


def sign(data: bytes, key: Path, namespace: str = RELEASE, *, patience: float | None = None) -> bytes:
    """Return the armored SSH signature of `data` by the private key (or agent's public key) at `key`.

    A person may have to touch a hardware key; where there is none, `patience` says how many seconds to wait.
    """
    with tempfile.TemporaryDirectory() as folder:
        message = Path(folder) / "message"
        message.write_bytes(data)
        _keygen(["-q", "-Y", "sign", "-f", str(key), "-n", namespace, str(message)], patience)
        return (Path(folder) / "message.sig").read_bytes()


def signers(
    data: bytes, signatures: Iterable[bytes], keys: Mapping[str, str], namespace: str = RELEASE
) -> frozenset[str]:
    """Return the fingerprints of those `keys` that signed `data` for this purpose.

    `keys` holds public keys (`kind base64`) by fingerprint. A signature that does not hold counts for nobody.
    """
    found: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        allowed, armored = Path(folder) / "allowed_signers", Path(folder) / "signature"
        allowed.write_text("".join(f'{_SIGNER} namespaces="{namespace}" {key}\n' for key in keys.values()))
        for signature in list(signatures)[:MOST]:
            armored.write_bytes(signature)
            words = ["-Y", "verify", "-f", str(allowed), "-I", _SIGNER, "-n", namespace, "-s", str(armored)]
            done = _run(words, data)
            good = _GOOD.search(done.stdout) if done.returncode == 0 else None
            found |= {good[1].decode()} if good else set()
    return frozenset(found & set(keys))


def split(armored: bytes) -> tuple[bytes, ...]:
    """Return the signatures that lie one after another in a file."""
    return tuple(_ARMORED.findall(armored))


def _keygen(words: list[str], patience: float | None = PATIENCE) -> str:
    done = _run(words, b"", patience)
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise IntegrityError(f"ssh-keygen {words[0]} {words[1]} failed: {said}")
    return done.stdout.decode()


def _run(
    words: list[str], data: bytes, patience: float | None = PATIENCE
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", *words],
            input=data,
            capture_output=True,
            check=False,
            timeout=patience,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise IntegrityError(
            f"ssh-keygen {words[0]} {words[1]} did not end within {patience:.0f} s"
        ) from error
    except FileNotFoundError as error:
        raise MissingPartError(
            "ssh-keygen is not installed", remedy="apt-get install openssh-client"
        ) from error
