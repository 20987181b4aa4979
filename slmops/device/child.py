"""The daemon's process: started, watched and stopped by process id.

By process id and not by a Popen object, because the supervisor replaces itself by a newer agent
with exec and must still know its child.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slmops.device import runtimes
from slmops.device.places import Places, read_json, write_json

DRAIN = 10.0
"""Seconds a daemon has to finish what it is answering."""
LOG_LIMIT = 4 << 20


@dataclass(frozen=True)
class Child:
    """A daemon that runs, or ran."""

    pid: int
    slot: str
    since: float
    """The standing's `since` it was started for: a later one wants it started anew."""
    started: float
    """Seconds of the monotonic clock."""


def start(places: Places, config: dict[str, Any], slot: str, since: float) -> Child:
    """Start the daemon on a slot, in a session of its own, its output going to the log.

    `config` holds `runtime` (argv of a Python), `port`, and `runtime_slot` where the daemon runs from a
    bundle. Raise OSError when it cannot be started, a SlmopsError when the bundle has rotted.
    """
    _bound_log(places)
    if places.port.exists():
        places.port.unlink()
    words = [
        *runtimes.python_words(places, config),
        *("-m", "slmops.daemon"),
        *("--artifact", str(places.files(slot))),
        *("--port", str(config["port"])),
        *("--port-file", str(places.port)),
        *("--spool", str(places.spool)),
        *("--digest", f"sha256:{slot}"),
    ]
    with places.log.open("ab") as log:
        log.write(f"--- {time.strftime('%Y-%m-%dT%H:%M:%S%z')} starting slot {slot[:12]}\n".encode())
        log.flush()
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=runtimes.environment(places, config),
            cwd=str(places.root),
            start_new_session=True,
            preexec_fn=_unblock,  # noqa: PLW1509 - the supervisor has one thread
        )
    child = Child(pid=process.pid, slot=slot, since=since, started=time.monotonic())
    process.returncode = 0  # the supervisor reaps by pid; keep Popen from warning about it
    return child


def _unblock() -> None:
    """Let the daemon hear the signals that the supervisor waits for: a blocked mask outlives exec."""
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def reap(child: Child) -> int | None:
    """Return how the child ended (negative: the signal), or None while it runs."""
    try:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return None if pid == 0 else _exit_code(status)


def stop(child: Child) -> None:
    """Let the daemon finish what it is answering, then end it; what is left of its session goes too."""
    end = time.monotonic() + DRAIN
    with suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGTERM)
        while reap(child) is None:
            if time.monotonic() >= end:
                os.killpg(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                break
            time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def remember(
    places: Places,
    slot: str | None,
    since: float,
    child: Child | None,
    *,
    crashes: int,
    last_exit: int | None,
) -> None:
    """Write down what runs, for the agent's other processes and for a successor of this one."""
    said = {
        "slot": slot,
        "since": since,
        "child": child and asdict(child),
        "crashes": crashes,
        "last_exit": last_exit,
    }
    write_json(places.daemon, said)


def recall(places: Places) -> Child | None:
    """Return the child a predecessor of this process started, if it is ours."""
    said = (read_json(places.daemon) or {}).get("child")
    if not said:
        return None
    child = Child(**said)
    try:
        os.waitpid(child.pid, os.WNOHANG)
    except ChildProcessError:
        _end_orphan(places, child)
        return None
    return child


def _end_orphan(places: Places, child: Child) -> None:
    """End the daemon of a supervisor that was killed: it holds the port, and nobody can wait for it."""
    if _is_ours(places, child.pid):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def memory(places: Places, slot: str, model: str) -> dict[str, int] | None:
    """Return the bytes that the daemon of `slot` has taken; None where none runs or can be looked at.

    `peak`: high-water mark of the resident set. `mapped`: of the file `model`, what is mapped and resident
    now; part of the peak, and the kernel can take it back.
    """
    said = (read_json(places.daemon) or {}).get("child")
    if not said or said["slot"] != slot or not _is_ours(places, said["pid"]):
        return None
    process = Path(f"/proc/{said['pid']}")
    try:
        status, maps = (process / "status").read_text(), (process / "smaps").read_text()
    except OSError:
        return None
    marks = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if not marks:
        return None
    mapped, counts = 0, False
    for line in maps.splitlines():
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):
            counts = words[-1].endswith(f"/{slot}/files/{model}")
        elif counts and words[0] == "Rss:":
            mapped += int(words[1]) * 1024
    return {"peak": int(marks[0]) * 1024, "mapped": mapped}


def _is_ours(places: Places, pid: int) -> bool:
    """Say whether a process is a daemon of this root, and not one that got its number later."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return str(places.port).encode() in words


def _exit_code(status: int) -> int:
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _bound_log(places: Places) -> None:
    if places.log.exists() and places.log.stat().st_size > LOG_LIMIT:
        places.log.replace(places.log.with_suffix(".old.log"))
