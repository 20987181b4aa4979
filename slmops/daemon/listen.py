"""Listen: on TCP, on Unix sockets, and on sockets that somebody else opened for this process.

Two doors: `api`, where applications ask, and `admin`, a Unix socket for the owner's own hands. systemd and
the device's supervisor hand over sockets they listen on already (LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES), so
that who connects while this process starts anew waits instead of being refused.

Laws: nothing but loopback and Unix sockets without keys; a socket that somebody listens on is never taken
from him; an admin socket is a Unix socket in a folder where nobody else may write.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
import struct
from collections.abc import Iterable, MutableMapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slmops import keep_keys
from slmops.errors import SlmopsError, UsageError

Door = Literal["api", "admin"]
FIRST = 3
"""The number of the first descriptor that is handed over."""
NAMES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
LONGEST = 107
"""Bytes that a Unix socket's path may have."""
PORTS = 65535
BACKLOG = 512
"""Connections that may wait to be accepted, as many as may be open."""
SHARED, OWN = 0o660, 0o600
SILENT_MS = 60_000
"""How long what was sent may go unacknowledged, or find no room, before the kernel ends the connection."""


@dataclass(frozen=True)
class Listener:
    """A socket that is listened on, and which door it is."""

    door: Door
    sock: socket.socket
    path: Path | None = None
    """Its file, where this process made one."""

    @property
    def name(self) -> str:
        """HOST:PORT, or the path of a Unix socket."""
        said = self.sock.getsockname()
        if not isinstance(said, tuple):
            return os.fsdecode(said)
        return f"[{said[0]}]:{said[1]}" if ":" in said[0] else f"{said[0]}:{said[1]}"

    @property
    def port(self) -> int | None:
        """The port of a TCP socket."""
        said = self.sock.getsockname()
        return int(said[1]) if isinstance(said, tuple) else None

    def close(self) -> None:
        """Listen no more; take away the file, unless it is another's by now."""
        self.sock.close()
        if self.path is not None and not _is_served(self.path):
            with suppress(FileNotFoundError):
                self.path.unlink()


def gather(
    host: str,
    port: int,
    *,
    unix: Path | None = None,
    admin: Path | None = None,
    keys_file: Path | None = None,
    environ: MutableMapping[str, str] = os.environ,
) -> list[Listener]:
    """Open every door there is to be, those that were handed over first; return them, `api` before `admin`.

    Handed-over sockets stand for HOST and PORT, or for `admin` if they are called so; a Unix socket is opened
    besides. Raise UsageError where one cannot be opened, or would be open to others without keys.
    """
    found = inherited(environ)
    try:
        if not any(listener.door == "api" for listener in found):
            found.append(Listener("api", tcp(host, port)))
        if unix is not None:
            found.append(Listener("api", bind_unix(unix, SHARED), unix))
        if admin is not None and not any(listener.door == "admin" for listener in found):
            _own_folder(admin)
            found.append(Listener("admin", bind_unix(admin, OWN), admin))
        refuse_open(found, keys_file)
    except BaseException:
        for listener in found:
            listener.close()
        raise
    return sorted(found, key=lambda listener: listener.door != "api")


def inherited(environ: MutableMapping[str, str]) -> list[Listener]:
    """Return the sockets that were handed to this process, and take their notice out of `environ`.

    LISTEN_PID may be missing: a parent that hands over at fork does not know it yet. Raise UsageError where a
    descriptor is no stream socket, or an admin socket is not a Unix one.
    """
    said = {name: environ.pop(name, "") for name in NAMES}
    if not said["LISTEN_FDS"] or said["LISTEN_PID"] not in {"", str(os.getpid())}:
        return []
    if not said["LISTEN_FDS"].isdigit():
        raise UsageError(f"LISTEN_FDS is {said['LISTEN_FDS']!r}; expected a number")
    count, names = int(said["LISTEN_FDS"]), said["LISTEN_FDNAMES"].split(":")
    return [
        _handed(FIRST + number, "admin" if names[number : number + 1] == ["admin"] else "api")
        for number in range(count)
    ]


def tcp(host: str, port: int) -> socket.socket:
    """Bind a TCP socket; `host` is a name or an address, port 0 any free one. Raise UsageError."""
    check_port(port)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as stack:
            sock = stack.enter_context(socket.socket(family, kind, protocol))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
            stack.pop_all()
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            remedy="Say an address of this machine as --host, and as --port one that is free; 0 is any.",
        ) from error
    return _patient(sock)


def check_port(port: int) -> None:
    """Raise UsageError for a number that no port has: the system would take it modulo 65536."""
    if not 0 <= port <= PORTS:
        raise UsageError(f"{port} is no port", remedy=f"Say a --port of 0 to {PORTS}; 0 is any free one.")


def bind_unix(path: Path, mode: int) -> socket.socket:
    """Bind a Unix socket whose file has this mode; one that nobody listens on any more is replaced.

    Raise UsageError where the path is too long, is something else, or is listened on.
    """
    length = len(os.fsencode(path))
    if length > LONGEST:
        raise UsageError(
            f"the path of a socket has {length} bytes, and may have {LONGEST}: {path}",
            remedy="Give a shorter path, in /run for instance.",
        )
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777 & ~mode)
    try:
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise UsageError(
            f"cannot listen on {path}: {error.strerror or error}",
            remedy="Give a path in a folder that is there and that you may write to.",
        ) from error
    finally:
        os.umask(mask)
    sock.listen(BACKLOG)
    return sock


def refuse_open(listeners: Iterable[Listener], keys_file: Path | None) -> None:
    """Raise UsageError where a socket can be reached from elsewhere and there is no key."""
    far = [listener for listener in listeners if not _is_near(listener.sock)]
    if far and not _has_keys(keys_file):
        raise UsageError(
            f"{far[0].name} can be reached from other machines, and there are no keys",
            remedy="slmopsd keys create --file FILE --name NAME, then --keys FILE.",
        )


def is_owner(sock: socket.socket) -> bool:
    """Say whether the process at the other end of a Unix socket is this user's, or root's."""
    return _peer(sock)[1] in {0, os.geteuid()}


def is_parent(sock: socket.socket) -> bool:
    """Say whether the process at the other end of a Unix socket is the one that started this one."""
    return _peer(sock)[0] == os.getppid()


def admin_names(listeners: Iterable[Listener]) -> frozenset[str]:
    """Return the names of the admin sockets, by which a connection is known to have come through one."""
    return frozenset(listener.name for listener in listeners if listener.door == "admin")


def _peer(sock: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end of a Unix socket, as they were when it connected."""
    process, user, _group = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return process, user


def _handed(number: int, door: Door) -> Listener:
    try:
        sock = socket.socket(fileno=number)
    except OSError as error:
        raise UsageError(f"descriptor {number} was handed over and is no socket: {error.strerror}") from error
    unix = sock.family == socket.AF_UNIX
    if sock.type != socket.SOCK_STREAM or (door == "admin" and not unix):
        sock.close()
        raise UsageError(f"descriptor {number} was handed over as {door} and is not of the kind for that")
    os.set_inheritable(number, False)
    return Listener(door, sock if unix else _patient(sock))


def _patient(sock: socket.socket) -> socket.socket:
    """Bound how long the kernel keeps what nobody takes; accepted connections inherit it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MS)
    return sock


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on; raise UsageError for anything else that is there."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot listen on {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(kind):
        raise UsageError(
            f"cannot listen on {path}: it is there and is no socket", remedy="Give another path."
        )
    if _is_served(path):
        raise UsageError(
            f"cannot listen on {path}: somebody else does",
            remedy="End the daemon that does, or give another path.",
        )
    path.unlink(missing_ok=True)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # One that is too busy to answer is there.
            return True
    return True


def _own_folder(path: Path) -> None:
    """See that nobody else may write in the folder of an admin socket."""
    folder = path.absolute().parent
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise UsageError(f"no admin socket in {folder}: {error.strerror}") from error
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & keep_keys.WRITABLE_BY_OTHERS:
        raise UsageError(
            f"no admin socket in {folder}: others may write there",
            remedy=f"chmod 700 {folder}, if it is yours.",
        )


def _is_near(sock: socket.socket) -> bool:
    said = sock.getsockname()
    return not isinstance(said, tuple) or ipaddress.ip_address(said[0].partition("%")[0]).is_loopback


def _has_keys(file: Path | None) -> bool:
    try:
        return file is not None and bool(keep_keys.read(file))
    except FileNotFoundError:
        return False
    except (SlmopsError, OSError) as error:
        raise UsageError(f"{file}: {error}") from error
