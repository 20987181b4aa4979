"""See that the supervisor runs: under systemd where there is one, else as a process of its own."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from slmops.device.places import Places, read_json, write
from slmops.errors import DeviceError

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
NoNewPrivileges=yes
UMask=0077
Environment=OMP_WAIT_POLICY=passive

[Install]
WantedBy={target}
"""


def ensure(places: Places, config: dict[str, Any]) -> None:
    """Start the supervisor where none runs, and tell it to look."""
    if not nudge(places):
        kind = config["service"]
        if kind == "auto":
            kind = "systemd" if _systemctl() else "process"
        _start_unit(places) if kind == "systemd" else _start_process(places)
        _await_supervisor(places)
    nudge(places)


def nudge(places: Places) -> bool:
    """Tell the supervisor to look now; say whether there is one."""
    pid = _alive(places)
    if pid is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGHUP)
    return True


def end(places: Places) -> None:
    """Stop the supervisor and with it the daemon, for good."""
    unit = _unit_path(places)
    control = _systemctl()
    if control and unit.exists():
        subprocess.run([*control, "disable", "--now", unit.name], capture_output=True, check=False)
        unit.unlink()
    pid = _alive(places)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 20
    while _alive(places) is not None and time.monotonic() < until:
        time.sleep(0.05)


def _alive(places: Places) -> int | None:
    """Return the supervisor's process id, if it runs: its lock is held as long as it lives."""
    said = read_json(places.supervisor)
    if said is None:
        return None
    with places.supervisor_lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = int(said["pid"])
            return pid if _is_ours(places, pid) else None
    return None


def _is_ours(places: Places, pid: int) -> bool:
    """Say whether that process is a supervisor of this root, and not one that got its number later."""
    try:
        return str(places.root).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _await_supervisor(places: Places) -> None:
    until = time.monotonic() + 10
    while _alive(places) is None:
        if time.monotonic() >= until:
            raise DeviceError(
                "the supervisor did not start", remedy=f"See {places.log.parent} on the device."
            )
        time.sleep(0.02)


def _start_process(places: Places) -> None:
    """Start the supervisor so that it outlives this session: its own session, no terminal, no parent."""
    with (places.log.parent / "supervisor.log").open("ab") as log:
        subprocess.Popen(
            ["/bin/sh", "-c", '"$@" & ', "slmops", *_words(places)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        ).wait()


def _start_unit(places: Places) -> None:
    control = _systemctl()
    if not control:
        raise DeviceError(
            "this device has no systemd that this user may use", remedy="Set `service: process`."
        )
    unit = _unit_path(places)
    unit.parent.mkdir(parents=True, exist_ok=True)
    target = "multi-user.target" if os.geteuid() == 0 else "default.target"
    paths = {"python": sys.executable, "agent": places.agent_link, "root": places.root}
    text = UNIT.format(target=target, **{key: str(path).replace("%", "%%") for key, path in paths.items()})
    write(unit, text.encode())
    for words in (["daemon-reload"], ["enable", "--now", unit.name]):
        done = subprocess.run([*control, *words], capture_output=True, check=False)
        if done.returncode != 0:
            raise DeviceError(f"systemctl {words[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    if os.geteuid() != 0 and shutil.which("loginctl"):
        subprocess.run(["loginctl", "enable-linger"], capture_output=True, check=False)


def _unit_path(places: Places) -> Path:
    tag = hashlib.sha256(str(places.root).encode()).hexdigest()[:8]
    folder = Path("/etc/systemd/system") if os.geteuid() == 0 else Path.home() / ".config/systemd/user"
    return folder / f"slmops-{tag}.service"


def _systemctl() -> list[str]:
    """Return the words that reach a running systemd of this user, or none."""
    if not Path("/run/systemd/system").is_dir() or not shutil.which("systemctl"):
        return []
    if os.geteuid() == 0:
        return ["systemctl"]
    asked = subprocess.run(["systemctl", "--user", "show-environment"], capture_output=True, check=False)
    return ["systemctl", "--user"] if asked.returncode == 0 else []


def _words(places: Places) -> list[str]:
    return [sys.executable, str(places.agent_link), str(places.root), "supervise"]
