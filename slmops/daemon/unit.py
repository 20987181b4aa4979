"""The unit that systemd runs a daemon by: hardened, watched, and the sockets it may be started by.

Texts only. `python -m slmops.daemon unit` prints them, or writes them into a folder.

Laws: `systemd-analyze security --offline=true --threshold=15` passes both; what the daemon does is still
possible: it starts workers, talks to them over socket pairs, maps models and writes its own folders. What is
allowed beyond the least stands here with its reason.
"""

from __future__ import annotations

import argparse
import ipaddress
import re
import sys
from pathlib import Path, PurePosixPath

from slmops.daemon.listen import check_port
from slmops.errors import UsageError

NAME = "slmopsd"
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - where the unit sees nothing
_MEMORY = re.compile(r"[0-9]{1,15}[KMGT]?|[0-9]{1,3}%")
SERVICE = """\
[Unit]
Description=slmops inference daemon
Documentation=man:systemd.exec(5)
After=network.target
# Only what cannot start at all is given up.
StartLimitIntervalSec=60
StartLimitBurst=30

[Service]
Type=notify
NotifyAccess=main
ExecStart={words}
Environment=OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
Restart=always
RestartSec=500ms
# Models are read for longer than systemd waits by itself; the daemon asks for more time while they are.
TimeoutStartSec=60
TimeoutStopSec=20
# The router ends its workers; what is left is killed.
KillMode=mixed
WatchdogSec=30

DynamicUser=yes
User={name}
StateDirectory={name}
StateDirectoryMode=0700
RuntimeDirectory={name} {name}/admin
RuntimeDirectoryMode=0750
UMask=0077

# A worker that takes too much is killed and started again, and the router lives.
MemoryMax={memory}
OOMPolicy=continue
OOMScoreAdjust=200
TasksMax=256
LimitCORE=0

NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
PrivateUsers=yes
PrivateIPC=yes
RemoveIPC=yes
KeyringMode=private
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
# All of /proc, not its processes alone: memory, pressure and the processor's kind are read there.
ProcSubset=all
PrivateMounts=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
{reach}LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
# Threads that may not choose their processor go on without.
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""
NEAR = "IPAddressDeny=any\nIPAddressAllow=localhost\n"
SOCKET = """\
[Unit]
Description=Where the slmops inference daemon is asked

[Socket]
ListenStream={address}
ListenStream=/run/{name}.sock
FileDescriptorName=api
SocketMode=0660
NoDelay=yes

[Install]
WantedBy=sockets.target
"""


def main(words: list[str]) -> int:
    """Print the unit, or write it into a folder; return the exit code. Raise UsageError, OSError."""
    said = _options().parse_args(words)
    asked = {"host": said.host, "port": said.port, "memory": said.memory}
    texts = units(said.python, said.artifact, said.digest, socket_activated=said.socket_activated, **asked)
    for name, text in texts.items():
        if said.into:
            (said.into / name).write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(f"# /etc/systemd/system/{name}\n{text}" + ("\n" if len(texts) > 1 else ""))
    return 0


def units(
    python: str,
    artifact: str,
    digest: str = "",
    *,
    socket_activated: bool = False,
    host: str = "127.0.0.1",
    port: int = 11435,
    memory: str = "80%",
) -> dict[str, str]:
    """Return the texts of the unit files by their names.

    Raise UsageError for a path that the unit would not see, or a text that would end a line of it.
    """
    for path in (python, artifact):
        _refuse_hidden(path)
    check_port(port)
    if not _MEMORY.fullmatch(memory):
        raise UsageError(f"{memory!r} is no amount of memory; expected something like 2G or 80%")
    place, state = f"%t/{NAME}", f"%S/{NAME}"
    flags = [
        *("--artifact", _escaped(artifact)),
        *(("--digest", _escaped(digest)) if digest else ()),
        *(() if socket_activated else ("--host", _escaped(host), "--port", str(port))),
        *(() if socket_activated else ("--socket", f"{place}/api.sock")),
        *("--admin", f"{place}/admin/admin.sock", "--state", f"{state}/versions"),
        *("--spool", f"{state}/spool", "--keys", f"{state}/keys.json"),
    ]
    line = " ".join(f'"{word}"' for word in (_escaped(python), "-m", "slmops.daemon", *flags))
    reach = NEAR if _is_loopback(host) else ""
    service = SERVICE.format(words=line, name=NAME, memory=memory, reach=reach)
    if not socket_activated:
        return {f"{NAME}.service": service}
    service = service.replace("After=network.target\n", f"After=network.target\nRequires={NAME}.socket\n")
    address = f"[{host}]:{port}" if ":" in host else f"{_numeric(host)}:{port}"
    return {f"{NAME}.service": service, f"{NAME}.socket": SOCKET.format(address=address, name=NAME)}


def _options() -> argparse.ArgumentParser:
    reading = argparse.ArgumentParser(prog="slmopsd unit", description="Print the systemd unit of a daemon.")
    reading.add_argument("--artifact", required=True, help="folder with artifact.json")
    reading.add_argument("--digest", default="", help="digest of the artifact, as told to clients")
    reading.add_argument("--python", default=sys.executable, help="the Python that has the daemon in it")
    reading.add_argument("--host", default="127.0.0.1", help="elsewhere than on loopback keys are needed")
    reading.add_argument("--port", type=int, default=11435)
    reading.add_argument(
        "--memory", default="80%", help="MemoryMax: bytes, 2G, or a share of the machine's such as 80%%"
    )
    reading.add_argument("--socket-activated", action="store_true", help="started by the first request")
    reading.add_argument("--into", type=Path, help="write the files into this folder")
    return reading


def _refuse_hidden(path: str) -> None:
    parts = PurePosixPath(path)
    if not parts.is_absolute():
        raise UsageError(f"expected a whole path, from /, got {path!r}")
    for place in HIDDEN:
        if parts.is_relative_to(place):
            raise UsageError(
                f"{path} lies in {place}, which the unit does not see",
                remedy="Put it where a system's programs lie: /opt, /usr/local, /var/lib.",
            )


def _escaped(text: str) -> str:
    """Return a text for a value in double quotes: systemd reads some signs there."""
    if any(ord(letter) < ord(" ") for letter in text):
        raise UsageError(f"a unit's line cannot hold {text!r}")
    for letter, twice in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        text = text.replace(letter, twice)
    return text


def _numeric(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(_numeric(host)).is_loopback
    except ValueError as error:
        raise UsageError(f"a unit listens on an address, and {host!r} is none") from error
