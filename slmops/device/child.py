"""The router's process: started, watched and stopped by process id; its workers live and end with it.

By process id and not by a Popen object, because the supervisor replaces itself by a newer agent
with exec and must still know its child.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.device import runtimes
from slmops.device.places import Places, read_json, write_json
from slmops.wire import PASSAGE

DRAIN = 10.0
"""Seconds a daemon has to finish what it is answering."""
LOG_LIMIT = 4 << 20
TAIL_BYTES = 1 << 20
LETTERS = 200
"""Letters of a line of the log that the journal keeps: its record must fit into what a full disk has left."""
NOT_STARTED = 127
"""The exit code of a daemon whose program does not start, as a shell has it."""
FIRST_HANDED = 3
"""The descriptor that a process is handed its listening socket at, as systemd does; the passage's follow."""
FLAGS = ("slots", "pool", "seats", "max_pause", "cache", "capture", "cors", "memory_limit")
"""Of the settings under `daemon`, those that the router takes as flags."""
_OTHERS = ("LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")
"""What systemd told the supervisor and nobody else."""


@dataclass(frozen=True)
class Child:
    """A router that runs, or ran."""

    pid: int
    slot: str
    """That it was started with."""
    since: float
    """The standing's `since` it was started for."""
    started: float
    """Seconds of the monotonic clock."""
    way: str = ""
    """How it is run, as `way` has it; empty of one that an agent of before started."""
    steered: bool = False
    """It has an admin socket. A daemon of before has none, and serves the slot it was started with."""


def way(places: Places, config: dict[str, Any]) -> str:
    """Return how a router is run but for its slot, in words that can be compared."""
    said = {key: config.get(key) for key in ("runtime", "runtime_slot", "port")}
    said.update(daemon=config.get("daemon") or {}, keys=places.keys.exists())
    return json.dumps(said, sort_keys=True)


def start(
    places: Places, config: dict[str, Any], slot: str, since: float, handed: Sequence[int] = ()
) -> Child:
    """Start the router on a slot, in a session of its own, its output going to the log.

    `config` holds `runtime` (argv of a Python), `port`, `runtime_slot` where it runs from a bundle, and
    `daemon`, its flags. `handed` are the descriptors of the socket it answers on and of the passage; without
    them a daemon of before is started, which binds the port itself. Raise OSError when the bundle is not
    there, a SlmopsError when it has rotted; a program that does not start ends with NOT_STARTED.
    """
    bound_log(places)
    if not handed and places.port.exists():
        places.port.unlink()
    words = [
        *runtimes.python_words(places, config),
        *("-m", "slmops.daemon"),
        *("--artifact", str(places.files(slot))),
        *("--port", str(config["port"])),
        *("--port-file", str(places.port)),
        *("--spool", str(places.spool)),
        *("--digest", f"sha256:{slot}"),
        *(_flags(places, config.get("daemon") or {}) if handed else ()),
    ]
    environment = runtimes.environment(places, config)
    with places.log.open("ab", buffering=0) as log:
        # A disk that is full takes no line; what is served must not wait for that.
        with suppress(OSError):
            log.write(f"--- {time.strftime('%Y-%m-%dT%H:%M:%S%z')} starting slot {slot[:12]}\n".encode())
        pid = _spawn(words, environment, places.root, log.fileno(), handed)
    return Child(pid, slot, since, time.monotonic(), way(places, config), steered=bool(handed))


def _flags(places: Places, said: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a daemon of before does not know."""
    # A socket's name is short, a root's path may be long: from the root, where the router runs.
    yield from ("--admin", str(places.admin.relative_to(places.root)), "--steered")
    for name in FLAGS:
        values = said.get(name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None:
                yield from (f"--{name.replace('_', '-')}", str(value))
    if said.get("host") is not None:
        yield from ("--host", str(said["host"]))
    if places.keys.exists():
        yield from ("--keys", str(places.keys))


def _spawn(words: list[str], environment: dict[str, str], cwd: Path, log: int, handed: Sequence[int]) -> int:
    """Start a program; it is told its own process id, as who is handed a socket expects."""
    heard = {name: said for name, said in environment.items() if not name.startswith(_OTHERS)}
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.fchdir(os.open(str(cwd), os.O_RDONLY))
        _stand(log, handed)
        if handed:
            heard.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="api")
            heard[PASSAGE] = " ".join(str(FIRST_HANDED + each) for each in range(1, len(handed)))
        # The supervisor waits for signals that it blocks, and a blocked mask outlives exec.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.execvpe(words[0], words, heard)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(2, f"the daemon cannot be started: {error}\n".encode())
    finally:
        os._exit(NOT_STARTED)


def _stand(log: int, handed: Sequence[int]) -> None:
    """Put the descriptors where a daemon looks for them."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    # Aside first: one may lie where another belongs.
    aside = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, FIRST_HANDED + len(handed)) for each in handed]
    for target, source in enumerate(aside, FIRST_HANDED):
        os.dup2(source, target)


def reap(child: Child) -> int | None:
    """Return how the child ended (negative: the signal), or None while it runs.

    What is left of its session goes too: a worker that computes notices late that its router is gone.
    """
    try:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    if pid == 0:
        return None
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    return _exit_code(status)


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


def remember(places: Places, child: Child | None, said: dict[str, Any]) -> None:
    """Write down what runs and `said`, for the agent's other processes and for a successor of this one."""
    # Agents of before take what is under `child` for all there is to know of one.
    ours = child and {key: getattr(child, key) for key in ("pid", "slot", "since", "started")}
    router = child and {"way": child.way, "steered": child.steered}
    write_json(places.daemon, {**said, "child": ours, "router": router})


def recall(places: Places) -> Child | None:
    """Return the child that a predecessor of this process started, if it is ours; end all that are not."""
    said = read_json(places.daemon) or {}
    child = Child(**said["child"], **(said.get("router") or {})) if said.get("child") else None
    if child is not None:
        try:
            os.waitpid(child.pid, os.WNOHANG)
        except ChildProcessError:
            child = None
    _end_orphans(places, None if child is None else child.pid)
    return child


def _end_orphans(places: Places, but: int | None) -> None:
    """End the daemons of supervisors that were killed: they hold the port, and nobody can wait for them.

    They are looked for: one that was killed at the wrong moment had not written down whom it started.
    """
    for pid in [int(each.name) for each in Path("/proc").glob("[0-9]*")]:
        if pid != but and _is_ours(places, pid):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


def memory(places: Places, slot: str, model: str) -> dict[str, int] | None:
    """Return the bytes that serving `slot` has taken: the router's and its worker's.

    `peak`: high-water marks of their resident sets. `mapped`: of the file `model`, what is mapped and
    resident now; part of the peak, and the kernel can take it back. None where none can be looked at.
    """
    state = read_json(places.daemon) or {}
    said, worker = state.get("child"), (state.get("workers") or {}).get(slot)
    alone = not (state.get("router") or {}).get("steered")
    if not said or (worker is None and not (alone and said["slot"] == slot)):
        return None
    if not _is_ours(places, said["pid"]):
        return None
    try:
        taken = [_taken(each, f"/{slot}/files/{model}") for each in {said["pid"], worker or said["pid"]}]
    except OSError:
        return None
    return {"peak": sum(peak for peak, _ in taken), "mapped": sum(mapped for _, mapped in taken)}


def _taken(pid: int, model: str) -> tuple[int, int]:
    """Return the high-water mark of a process, and what it has mapped of a file; raise OSError of none."""
    process = Path(f"/proc/{pid}")
    status, maps = (process / "status").read_text(), (process / "smaps").read_text()
    marks = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if not marks:
        raise ProcessLookupError(f"process {pid} has ended")
    mapped, counts = 0, False
    for line in maps.splitlines():
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):
            counts = words[-1].endswith(model)
        elif counts and words[0] == "Rss:":
            mapped += int(words[1]) * 1024
    return int(marks[0]) * 1024, mapped


def last_words(places: Places) -> list[str]:
    """Return the last lines the daemon wrote, as much of each as the journal keeps as evidence."""
    return [line[:LETTERS] for line in log_tail(places)]


def log_tail(places: Places, lines: int = 20) -> list[str]:
    """Return the last lines the daemon wrote."""
    if not places.log.exists():
        return []
    with places.log.open("rb") as file:
        file.seek(max(0, places.log.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-lines:]


def _is_ours(places: Places, pid: int) -> bool:
    """Say whether a process is a daemon of this root, and not one that got its number later."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return {b"slmops.daemon", str(places.port).encode()} <= set(words)


def _exit_code(status: int) -> int:
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def bound_log(places: Places) -> None:
    """Keep the log within bounds while a router writes it, which may live for months.

    It appends wherever the end is, so the file is copied and emptied.
    """
    with suppress(OSError):
        if places.log.stat().st_size > LOG_LIMIT:
            with suppress(OSError):
                shutil.copyfile(str(places.log), str(places.log.with_suffix(".old.log")))
            os.truncate(str(places.log), 0)
