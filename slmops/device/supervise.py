"""Keep the daemon of the current slot running, and decide alone when nobody else does.

One supervisor a device. It follows the journal: when the standing names another slot, it stops
one daemon and starts the other. A trial that is not confirmed in time, or whose daemon keeps
crashing, goes back with nobody watching; so does a slot that has rotted, when the one before it is whole.
The way back needs no model, no network, no operator; on a disk that cannot be written it is gone in memory.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any

from slmops.device import boots, journal, leftovers, slots
from slmops.device import child as children
from slmops.device.places import Places, read_json, write_json
from slmops.device.tell import Teller
from slmops.device.trial import Standing, expired, going_back
from slmops.errors import DeviceError, IntegrityError

TAIL_BYTES = 1 << 20
LETTERS, MESSAGE = 200, 500
"""Letters of a line of the log, and of a message, that the journal keeps: on a full disk its record must fit
into what is set aside for it."""
HELD_LOCK = "SLMOPS_SUPERVISOR_LOCK"
"""Names the descriptor of the lock to the process that this one becomes."""
CRASHES = 3
"""Ends of the daemon within one trial that end the trial."""
NOT_STARTED = 127
"""The exit code of a daemon whose program does not start, as a shell has it."""
STEADY = 60.0
"""Seconds a committed daemon must have lived for its end to count as a first one."""
TICK = 0.5
"""Seconds between looks at the journal when nobody nudges."""
REST = 1.0
"""Seconds between looks while what is committed serves: the end of the daemon wakes the supervisor anyway."""
SIGNALS = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def run(places: Places) -> None:
    """Supervise until told to end; return at once when another supervisor is at work."""
    lock = _lock(places)
    if lock is None:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    _tidy(places)
    agent = in_force(places) or ""
    if not _Watch(places).until_told(agent):
        os.set_inheritable(lock, True)
        os.environ[HELD_LOCK] = str(lock)
        os.execv(  # noqa: S606 - the same process, with the agent that is now in force
            sys.executable, [sys.executable, str(places.agent_link), str(places.root), "supervise"]
        )


def _tidy(places: Places) -> None:
    """Remove what a power cut left half made, unless a verb is at work or the disk cannot be written."""
    with suppress(DeviceError, OSError), journal.locked(places, wait=0.0):
        leftovers.tidy(places)


def in_force(places: Places) -> str | None:
    """Return the agent that the link names, relative to the root; None where there is no link."""
    try:
        return str(places.agent_link.readlink())
    except OSError:
        return None


def _lock(places: Places) -> int | None:
    """Return the supervisor's lock, held; None when another holds it. A newer self inherits it over exec."""
    held = os.environ.pop(HELD_LOCK, None)
    if held is not None:
        os.set_inheritable(int(held), False)
        return int(held)
    lock = os.open(str(places.supervisor_lock), os.O_RDONLY | os.O_CREAT, 0o600)
    end = time.monotonic() + 1.0
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Somebody may only be looking whether it is held.
            if time.monotonic() >= end:
                os.close(lock)
                return None
            time.sleep(0.02)
        else:
            return lock


class _Watch:
    """What the supervisor knows between two looks."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.introduced = False
        self.child = children.recall(places)
        self.slot = self.child.slot if self.child else None
        self.since = self.child.since if self.child else 0.0
        self.crashes = 0
        self.last_exit: int | None = None
        self.not_before = 0.0
        self.stamp: object = None
        self.read = Standing()
        self.rotten: dict[tuple[str, float], bool] = {}
        self.left: tuple[Standing, tuple[str, str]] | None = None
        self.teller = Teller(places)

    def until_told(self, agent: str) -> bool:
        """Look and act until SIGTERM (True) or until a newer agent is in force (False)."""
        while True:
            if in_force(self.places) not in (None, agent):
                self._remember()
                return False
            self._introduce(agent)
            self._look()
            self.teller.look()
            resting = self.child is not None and self.read.trial is None
            told = signal.sigtimedwait(SIGNALS, REST if resting else TICK)
            if told is not None and told.si_signo in (signal.SIGTERM, signal.SIGINT):
                self._stop()
                return True

    def _introduce(self, agent: str) -> None:
        """Say which process this is, once the disk takes it."""
        if not self.introduced:
            with suppress(OSError):
                write_json(self.places.supervisor, {"pid": os.getpid(), "agent": agent})
                self.introduced = True

    def _look(self) -> None:
        standing = self._standing()
        if self._is_of(standing):
            self._bury(standing)
        judged = self._judge(standing)
        if not self._is_of(judged):
            self._stop(judged)
        elif judged != standing:
            self._bury(judged)
        due = self.child is None and time.monotonic() >= self.not_before
        if due and judged.slot is not None and not self._has_rotted(judged):
            self._start(judged, judged.slot)

    def _standing(self) -> Standing:
        """Return where the device stands; the journal is read again only when it changed."""
        stamp = journal.stamp(self.places)
        if stamp != self.stamp:
            self.stamp, self.read = stamp, journal.standing(self.places)
        return self.read

    def _is_of(self, standing: Standing) -> bool:
        return (self.slot, self.since) == (standing.slot, standing.since)

    def _start(self, standing: Standing, slot: str) -> None:
        # The slot's own settings are enough where what the device was told is lost.
        config = {**(read_json(self.places.config) or {}), **(standing.settings or {})}
        try:
            self.child = children.start(self.places, config, slot, standing.since)
        except (OSError, KeyError, IntegrityError) as error:
            with suppress(OSError), self.places.log.open("a", encoding="utf-8") as log:
                log.write(f"the daemon cannot be started: {error}\n")
            self._count_end(NOT_STARTED, lived=0.0, standing=standing)
        self._remember()

    def _bury(self, standing: Standing) -> None:
        """Note the end of a daemon."""
        code = children.reap(self.child) if self.child is not None else None
        if code is not None and self.child is not None:
            self._count_end(code, time.monotonic() - self.child.started, standing)
            self._remember()

    def _count_end(self, code: int, lived: float, standing: Standing) -> None:
        """Count an end; the next start waits longer each time, half a minute at most."""
        self.crashes = 1 if lived > STEADY and standing.trial is None else self.crashes + 1
        self.last_exit, self.child = code, None
        self.not_before = time.monotonic() + min(30.0, 0.2 * 2 ** min(self.crashes, 8))

    def _judge(self, standing: Standing) -> Standing:
        """End what must not go on, unless an operator's verb is at work on it."""
        reason = self.left[1] if self.left and self.left[0] == standing else self._reason_to_leave(standing)
        if reason is None:
            return standing
        code, message = reason
        try:
            with journal.locked(self.places, wait=0.0):
                if journal.standing(self.places) != standing:
                    # Somebody was quicker, and may have confirmed it: look again.
                    return standing
                evidence = {"log": last_words(self.places), "last_exit": self.last_exit}
                return roll_back(self.places, code, message, evidence)
        except DeviceError:
            return standing
        except OSError:
            # The disk takes no record: what is served must not wait for that.
            self.left = standing, reason
            return going_back(standing)

    def _reason_to_leave(self, standing: Standing) -> tuple[str, str] | None:
        """Return code and message when the slot must not serve on: its time is up, it crashes, it rotted."""
        if expired(standing, boots.identity(), time.monotonic()):
            return "CONFIRM_TIMEOUT", "nobody confirmed the release in time"
        if standing.trial is not None and self._is_of(standing) and self.crashes >= CRASHES:
            return "RUN_CRASHLOOP", f"the daemon ended {self.crashes} times"
        if self.child is None and self._has_rotted(standing):
            return "ROTTEN", "its files have rotted"
        return None

    def _has_rotted(self, standing: Standing) -> bool:
        """Say whether the slot's files are not what they were and those of the way back are; read once.

        Where neither is whole the device serves on: a flipped byte in a readme costs it no service.
        """
        back = going_back(standing).slot
        if standing.slot is None or back is None or back == standing.slot:
            return False
        asked = (standing.slot, standing.since)
        if asked not in self.rotten:
            whole = slots.is_whole(self.places, standing.slot)
            if not whole:
                with suppress(OSError):
                    slots.note_rotten(self.places, standing.slot, "its files have rotted")
            self.rotten = {asked: not whole and slots.is_whole(self.places, back)}
        return self.rotten[asked]

    def _stop(self, then: Standing | None = None) -> None:
        """End the daemon; `then` is the standing to serve next."""
        if self.child is not None:
            self.teller.hush()
            children.stop(self.child)
        then = then or Standing()
        self.slot, self.since, self.child, self.crashes, self.not_before = then.slot, then.since, None, 0, 0.0
        self._remember()

    def _remember(self) -> None:
        # Others read it; the daemon runs without.
        with suppress(OSError):
            children.remember(
                self.places, self.slot, self.since, self.child, crashes=self.crashes, last_exit=self.last_exit
            )


def roll_back(places: Places, code: str, message: str, evidence: dict[str, Any]) -> Standing:
    """Go back to the slot before; the caller holds the device's lock."""
    here = journal.standing(places)
    standing = journal.append(
        *(places, "rolled_back"),
        slot=here.slot,
        boot=boots.identity(),
        code=code,
        message=message[:MESSAGE],
        evidence=evidence,
    )
    slots.point(places, standing)
    return standing


def last_words(places: Places) -> list[str]:
    """Return the last lines the daemon wrote, as much of each as is kept as evidence."""
    return [line[:LETTERS] for line in log_tail(places)]


def log_tail(places: Places, lines: int = 20) -> list[str]:
    """Return the last lines the daemon wrote."""
    if not places.log.exists():
        return []
    with places.log.open("rb") as file:
        file.seek(max(0, places.log.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-lines:]
