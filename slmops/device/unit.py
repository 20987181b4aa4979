"""The unit that systemd keeps a device's supervisor by: root's, hardened, or a user's, as far as users may.

A text only. The supervisor, the router and its workers live in it, and write under ROOT alone; programs of
the system are asked by the agent, over SSH, outside of it. It does not know whether there is a systemd.

Law: what the unit takes away none of these ever needs; what it leaves beyond the least stands here with its
reason.
"""

from __future__ import annotations

from slmops.device.boots import TOLD

UNIT = """\
[Unit]
Description=slmops: keeps the inference daemon of {root} running
After=network.target

[Service]
ExecStart="{python}" "{agent}" "{root}" supervise
Restart=always
RestartSec=2
KillMode=mixed
TimeoutStopSec=20
# A worker that took too much is the router's to start again, and the rest lives on.
OOMPolicy=continue
UMask=0077
LimitCORE=0
Environment=OMP_WAIT_POLICY=passive
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
# Threads that may not choose their processor go on without.
SystemCallErrorNumber=EPERM
{more}
[Install]
WantedBy={target}
"""
SYSTEM = """\
# Root without his powers: he owns what lies under ROOT, and needs no more than an owner may.
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
# Not hidden: ROOT, and often the daemon's Python, lie in somebody's home.
ProtectHome=read-only
ReadWritePaths="{root}"
PrivateTmp={private}
PrivateDevices=yes
DevicePolicy=closed
PrivateMounts=yes
PrivateUsers={apart}
PrivateIPC=yes
KeyringMode=private
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
# Deadlines hold within one boot. In a container its identity is mounted over the host's, and a /proc of
# the unit's own would show that one: systemd says which boot it is.
Environment={boot}=%b
# All of /proc, not its processes alone: the boot's identity, memory and pressure are read there.
ProcSubset=all
"""
SHARED = ("/tmp/", "/var/tmp/")  # noqa: S108 - where a ROOT may lie that is only tried out


def unit(python: str, agent: str, root: str, *, system: bool, namespaces: bool = True) -> str:
    """Return the unit that starts `agent` on `root` by `python`: of the machine, or of a user.

    `namespaces`: the kernel has those of users; a unit that asks for what is not there does not start.
    """
    paths = {"python": python, "agent": agent, "root": root}
    said = {key: path.replace("%", "%%") for key, path in paths.items()}
    private = "no" if f"{root}/".startswith(SHARED) else "yes"
    apart = "yes" if namespaces else "no"
    more = SYSTEM.format(root=said["root"], private=private, apart=apart, boot=TOLD) if system else ""
    target = "multi-user.target" if system else "default.target"
    return UNIT.format(**said, more=more, target=target)
