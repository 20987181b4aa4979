"""See that the supervisor runs: under systemd where there is one, else as a process of its own.

After a boot systemd starts it, or the user's crontab; a device that has neither waits for the next deploy,
and `outlook` says so.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from slmops.device import crontab, journal, limit
from slmops.device import unit as units
from slmops.device.places import Places, read_json, write
from slmops.errors import DeviceError


def ensure(places: Places, config: dict[str, Any]) -> None:
    """Start the supervisor where none runs, and tell it to look."""
    if not nudge(places):
        kind = config["service"]
        if kind == "auto":
            kind = "systemd" if _systemctl() and _outlives_sessions() else "process"
        _start_unit(places) if kind == "systemd" else _start_process(places)
        _await_supervisor(places)
    nudge(places)


def start(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """See that a supervisor runs on a device that has no release yet; return `outlook`."""
    with journal.locked(places):
        ensure(places, places.read_config())
    return outlook(places)


def nudge(places: Places) -> bool:
    """Tell the supervisor to look now; say whether there is one."""
    pid = alive(places)
    if pid is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGHUP)
    return True


def outlook(places: Places) -> dict[str, Any]:
    """Say what can start the supervisor, and what would after a boot: {systemd, linger, cron, after_boot}.

    `systemd` is "system", "user" or None; `after_boot` is "systemd", "cron" or None. A user's systemd begins
    with the machine only if the user lingers.
    """
    control = _systemctl()
    linger = _lingers()
    after = None
    if control and _unit_path(places).exists() and (os.geteuid() == 0 or linger):
        after = "systemd"
    elif crontab.has(_cron_line(places)):
        after = "cron"
    return {
        "systemd": ("system" if os.geteuid() == 0 else "user") if control else None,
        "linger": linger,
        "cron": crontab.there(),
        "after_boot": after,
    }


def log_tail(places: Places, lines: int) -> list[str]:
    """Return the last lines the supervisor wrote: to its own log, or to the journal of systemd."""
    unit, own = _unit_path(places), _own_log(places)
    if unit.exists() and shutil.which("journalctl"):
        user = [] if os.geteuid() == 0 else ["--user"]
        words = ["journalctl", *user, "-u", unit.name, "-n", str(lines), "-o", "short-iso", "--no-pager"]
        return limit.run(words).stdout.splitlines()
    if not own.exists():
        return []
    return own.read_text(errors="replace").splitlines()[-lines:]


def end(places: Places) -> None:
    """Stop the supervisor and with it the daemon, for good."""
    crontab.remove(_cron_line(places))
    unit = _unit_path(places)
    control = _systemctl()
    if control and unit.exists():
        limit.run([*control, "disable", "--now", unit.name])
        unit.unlink()
    pid = alive(places)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 20
    while alive(places) is not None and time.monotonic() < until:
        time.sleep(0.05)


def alive(places: Places) -> int | None:
    """Return the supervisor's process id, if it runs: its lock is held as long as it lives."""
    said = read_json(places.supervisor)
    if said is None:
        return None
    # For reading: a look must do where nothing can be written.
    with suppress(FileNotFoundError), places.supervisor_lock.open("rb") as lock:
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
    until = time.monotonic() + 60
    while alive(places) is None:
        if time.monotonic() >= until:
            raise DeviceError(
                "the supervisor did not start", remedy=f"See {places.log.parent} on the device."
            )
        time.sleep(0.02)


def _start_process(places: Places) -> None:
    """Start the supervisor so that it outlives this session: its own session, no terminal, no parent."""
    crontab.add(_cron_line(places))
    with _own_log(places).open("ab") as log:
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
    path = _unit_path(places)
    path.parent.mkdir(parents=True, exist_ok=True)
    agent, root = str(places.agent_link), str(places.root)
    system, namespaces = os.geteuid() == 0, Path("/proc/self/ns/user").exists()
    write(path, units.unit(sys.executable, agent, root, system=system, namespaces=namespaces).encode())
    for words in (["daemon-reload"], ["enable", "--now", path.name]):
        done = limit.run([*control, *words])
        if done.returncode != 0:
            raise DeviceError(f"systemctl {words[0]} failed: {done.stderr.strip()}")
    _outlives_sessions()


def _outlives_sessions() -> bool:
    """Say whether this user's systemd stays when nobody is logged in; where we may, see that it does."""
    if os.geteuid() != 0 and not _lingers() and shutil.which("loginctl"):
        limit.run(["loginctl", "enable-linger"])
    return os.geteuid() == 0 or _lingers()


def _lingers() -> bool:
    return (Path("/var/lib/systemd/linger") / getpass.getuser()).exists()


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
    asked = limit.run(["systemctl", "--user", "show-environment"])
    return ["systemctl", "--user"] if asked.returncode == 0 else []


def _own_log(places: Places) -> Path:
    return places.log.parent / "supervisor.log"


def _cron_line(places: Places) -> str:
    """Return the line of a crontab that starts the supervisor after a boot; % is cron's own line end."""
    return "@reboot " + shlex.join(_words(places)).replace("%", r"\%") + " >/dev/null 2>&1"


def _words(places: Places) -> list[str]:
    return [sys.executable, str(places.agent_link), str(places.root), "supervise"]
