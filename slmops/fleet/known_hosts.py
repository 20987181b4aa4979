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
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

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
    keys, revoked = paramiko.HostKeys(), set[str]()
    for path in paths:
        for entry in _entries(path, revoked):
            for name in entry.hostnames or []:
                if entry.key.get_base64() not in revoked:
                    keys.add(name, entry.key.get_name(), entry.key)
    return keys


def files(own: str | None, trusted: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the files that say which key a device must show: its `own`, then those `trusted` for all."""
    return (*((Path(own),) if own else ()), *trusted)


def trust(path: Path, name: str, key: paramiko.PKey) -> None:
    """Write down that `name` shows `key`; raise HostKeyError when the file says otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        read.cache_clear()
        refuse_other((path,), name, key)
        if _held(path, name, key.get_name()) is None:
            file.seek(0)
            text = file.read()
            file.write("\n" if text and not text.endswith("\n") else "")
            file.write(f"{name} {key.get_name()} {key.get_base64()}\n")
    read.cache_clear()


def refuse_other(paths: tuple[Path, ...], name: str, key: paramiko.PKey) -> None:
    """Raise HostKeyError when one of these files says that `name` shows another key of this kind."""
    for path in paths:
        known = _held(path, name, key.get_name())
        if known is not None and known != key:
            raise changed(name, fingerprint(key), fingerprint(known), path)


def _held(path: Path, name: str, kind: str) -> paramiko.PKey | None:
    """Return the key of a kind that a file holds for a host."""
    keys = read((path,)).lookup(name)
    return None if keys is None else keys.get(kind)


def _entries(path: Path, revoked: set[str]) -> list[HostKeyEntry]:
    """Return the keys of one file, noting revoked ones; certificate authorities are not for hosts here."""
    if not path.is_file():
        return []
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#") or words[0] == "@cert-authority":
            continue
        if words[0] == "@revoked":
            revoked.update(words[3:4])
            continue
        try:
            entry = HostKeyEntry.from_line(line, number)
        except InvalidHostKey as error:
            raise HostKeyError(
                f"{path}, line {number} is no host key", remedy="Mend or remove the line."
            ) from error
        if entry is not None:
            entries.append(entry)
    return entries


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
