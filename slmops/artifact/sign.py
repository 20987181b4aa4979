"""Sign and verify with SSH keys: who vouches for a release.

Every device that runs sshd has `ssh-keygen`, so the verifier is already there, and operators
may use an agent or a hardware key. No cryptography is written by hand.
Source: ssh-keygen(1), -Y sign and -Y verify; PROTOCOL.sshsig.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from slmops.errors import IntegrityError, MissingPartError

RELEASE = "slmops-release"
"""The namespace of release signatures: a signature made for another purpose does not verify."""
SIGNER = "release@slmops"


def make_key(path: Path, comment: str) -> None:
    """Make an ed25519 key without a passphrase at `path` (0600) and its `.pub` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _keygen(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def fingerprint(public_key: Path) -> str:
    """Return the SHA256 fingerprint of a public key file, as OpenSSH prints it."""
    return _keygen(["-l", "-f", str(public_key)]).split()[1]


def allowed_signers(public_key: str) -> str:
    """Return the allowed-signers line that lets `public_key` (one line) vouch for releases."""
    kind, key = public_key.split()[:2]
    return f'{SIGNER} namespaces="{RELEASE}" {kind} {key}\n'


def sign(data: bytes, key: Path) -> bytes:
    """Return the armored SSH signature of `data` by the private key (or agent's public key) at `key`."""
    with tempfile.TemporaryDirectory() as folder:
        message = Path(folder) / "message"
        message.write_bytes(data)
        _keygen(["-q", "-Y", "sign", "-f", str(key), "-n", RELEASE, str(message)])
        return (Path(folder) / "message.sig").read_bytes()


def verify(data: bytes, signature: bytes, signers: str) -> None:
    """Raise IntegrityError unless `signature` over `data` is by one of `signers` (allowed-signers text)."""
    with tempfile.TemporaryDirectory() as folder:
        allowed, armored = Path(folder) / "allowed_signers", Path(folder) / "signature"
        allowed.write_text(signers)
        armored.write_bytes(signature)
        words = ["-Y", "verify", "-f", str(allowed), "-I", SIGNER, "-n", RELEASE, "-s", str(armored)]
        done = _run(words, data)
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise IntegrityError(
            f"the signature does not hold: {said or 'ssh-keygen refused it'}",
            remedy="The release was not signed by the key trusted here. See `slmops release verify N:V`.",
        )


def _keygen(words: list[str]) -> str:
    done = _run(words, b"")
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise IntegrityError(f"ssh-keygen {words[0]} {words[1]} failed: {said}")
    return done.stdout.decode()


def _run(words: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", *words],
            input=data,
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise MissingPartError(
            "ssh-keygen is not installed", remedy="apt-get install openssh-client"
        ) from error
