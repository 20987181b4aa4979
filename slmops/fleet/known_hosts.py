"""Host keys: which key a device must show, and how one comes to be trusted.

A key is trusted because a person said so after seeing its fingerprint, or because the operator's
OpenSSH trusts it already. An unknown key and a changed one are both refused.
"""

import base64
import fcntl
import hashlib
from functools import cache
from pathlib import Path

import paramiko

from slmops.errors import HostKeyError


def name_of(host: str, port: int) -> str:
    """Return how known_hosts files name a host: the port stands in it when it is not 22."""
    return host if port == paramiko.config.SSH_PORT else f"[{host}]:{port}"


def fingerprint(key: paramiko.PKey) -> str:
    """Return the SHA256 fingerprint as OpenSSH prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


@cache
def read(paths: tuple[Path, ...]) -> paramiko.HostKeys:
    """Return the keys of all these files, each parsed once for the whole fleet."""
    keys = paramiko.HostKeys()
    for path in paths:
        if path.is_file():
            keys.load(str(path))
    return keys


def trust(path: Path, name: str, key: paramiko.PKey) -> None:
    """Write down that `name` shows `key`; raise HostKeyError when the file says otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("a+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        held = paramiko.HostKeys(str(path)).lookup(name)
        known = held.get(key.get_name()) if held is not None else None
        if known is not None and known != key:
            raise changed(name, fingerprint(key), fingerprint(known), path)
        if known is None:
            file.write(f"{name} {key.get_name()} {key.get_base64()}\n")
    read.cache_clear()


def unknown(name: str, shown: str) -> HostKeyError:
    """Return the error for a host nobody has vouched for."""
    return HostKeyError(
        f"the host key of {name} is unknown (it shows {shown})",
        remedy=f"Compare the fingerprint with the device's own, then run `slmops device trust {name}`.",
    )


def changed(name: str, shown: str, known: str, path: Path | None = None) -> HostKeyError:
    """Return the error for a host that shows another key than the trusted one."""
    where = f" in {path}" if path else ""
    return HostKeyError(
        f"the host key of {name} has changed: trusted is {known}{where}, it shows {shown}",
        remedy="If the device was installed anew, remove its line from known_hosts and trust it again; "
        "if not, somebody stands between.",
    )
