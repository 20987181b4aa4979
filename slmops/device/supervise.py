"""Keep the router running, steer it to the slot that is to serve, and decide alone when nobody else does.

One supervisor a device. It follows the journal: what the standing names is loaded beside what serves, and
takes its place when it has passed its gate. Only where it is run another way is one router ended and the
other started, and then connections wait at the socket, which is the supervisor's. A trial that is not
confirmed in time, or whose daemon keeps crashing, goes back with nobody watching; so does a slot that has
rotted, when the one before it is whole. The way back needs no model, no network, no operator; on a disk that
cannot be written it is gone in memory.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any

from slmops.device import boots, journal, leftovers, slots, steer
from slmops.device import child as children
from slmops.device.go_back import go_back, leads_back
from slmops.device.listen import LOOPBACK, Listener, knows_sockets
from slmops.device.pilot import Pilot, Refusal
from slmops.device.places import Places, read_json, write_json
from slmops.device.tell import Teller
from slmops.device.trial import ROTTEN, Standing, expired, going_back
from slmops.errors import DeviceError, IntegrityError

HELD_LOCK = "SLMOPS_SUPERVISOR_LOCK"
"""Names the descriptor of the lock to the process that this one becomes."""
CRASHES = 3
"""Ends of the daemon within one trial that end the trial."""
NOT_UNDERSTOOD = 2
"""The exit code of a daemon of before, that knows no admin socket."""
STEADY = 60.0
"""Seconds a committed daemon must have lived for its end to count as a first one."""
TICK = 0.5
"""Seconds between looks at the journal when nobody nudges."""
BEAT = 10.0
"""Seconds between looks at a router that serves what is committed."""
REST = 1.0
"""Seconds between looks while what is committed serves: the end of the daemon wakes the supervisor anyway."""
QUICK = 0.05
"""Seconds between looks while a router's answer is waited for."""
SIGNALS = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def run(places: Places) -> None:
    """Supervise until told to end; return at once when another supervisor is at work."""
    lock = _lock(places)
    if lock is None:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    _tidy(places)
    agent = in_force(places) or ""
    watch = _Watch(places)
    if not watch.until_told(agent):
        watch.hand_over()
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
        self.listener, self.pilot = Listener(places), Pilot(places)
        self.child = children.recall(places)
        self.plain = ""
        """The way of a daemon of before, which cannot be steered."""
        said = read_json(places.daemon) or {} if self.child else {}
        self.slot, self.since = said.get("slot"), said.get("since", 0.0)
        self.ends = 0
        """Of routers, and loads that were refused, since the standing is this one."""
        self.died = 0
        """Times that the slot's worker ended; the router counts `died_before` more, of standings before."""
        self.died_before: int | None = None
        self.last_exit: int | None = None
        self.why: str | None = None
        self.not_before = 0.0
        self.stamp: object = None
        self.read = Standing()
        self.rotten: dict[tuple[str, float], bool] = {}
        self.left: tuple[Standing, tuple[str, str]] | None = None
        self.teller = Teller(places)
        self.told: object = None

    @property
    def crashes(self) -> int:
        """Ends of what is to serve, or of what is looked at, since the standing is this one."""
        return self.ends + self.died

    def until_told(self, agent: str) -> bool:
        """Look and act until SIGTERM (True) or until a newer agent is in force (False)."""
        while True:
            if in_force(self.places) not in (None, agent):
                return False
            self._introduce(agent)
            self._look()
            hurries = self.child is not None and self.child.steered and self.pilot.hurries
            if not hurries:
                # It asks the router, and a router that only starts would keep it waiting.
                self.teller.look()
            resting = self.child is not None and self.read.trial is None
            told = signal.sigtimedwait(SIGNALS, QUICK if hurries else REST if resting else TICK)
            if told is not None and told.si_signo in (signal.SIGTERM, signal.SIGINT):
                self._stop(follows=False)
                self.listener.close()
                self._remember()
                return True

    def hand_over(self) -> None:
        """Leave router and socket to the agent in force, or end both where it is of before there was one."""
        if not knows_sockets(self.places.agent_link):
            self._stop(follows=False)
            self.listener.close()
        self._remember()
        self.listener.hand_over(self.places.agent_link)

    def _introduce(self, agent: str) -> None:
        """Say which process this is, once the disk takes it."""
        if not self.introduced:
            with suppress(OSError):
                write_json(self.places.supervisor, {"pid": os.getpid(), "agent": agent})
                self.introduced = True

    def _look(self) -> None:
        standing = self._standing()
        if self.left is None or self.left[0] != standing:
            self._count_anew(standing)
        self._bury(standing)
        judged = self._judge(standing)
        self._count_anew(judged)
        config = self._config(judged)
        wanted = self._wanted(judged, config)
        if self.child is not None and self._must_end(self.child, judged, config, wanted):
            plain = self.plain == children.way(self.places, config)
            door = _host(config), config.get("port")
            self._stop(follows=bool(wanted) and not plain and self.listener.is_at(*door))
        if not wanted:
            # Nobody is to wait for what is not there.
            self.listener.close()
        elif self.child is not None and self.child.steered:
            self._steer(judged, wanted)
        elif self.child is None and time.monotonic() >= self.not_before:
            self._start(judged, config, wanted[steer.CURRENT])
        self._remember()
        children.bound_log(self.places)

    def _standing(self) -> Standing:
        """Return where the device stands; the journal is read again only when it changed."""
        stamp = journal.stamp(self.places)
        if stamp != self.stamp:
            self.stamp, self.read = stamp, journal.standing(self.places)
        return self.read

    def _count_anew(self, standing: Standing) -> None:
        """Begin to count ends where the standing is another one."""
        if (self.slot, self.since) != (standing.slot, standing.since):
            self.slot, self.since = standing.slot, standing.since
            self.ends, self.died, self.died_before, self.not_before, self.why = 0, 0, None, 0.0, None

    def _config(self, standing: Standing) -> dict[str, Any]:
        """Return how the router is to be run: each slot keeps its own settings.

        They are enough where what the device was told is lost.
        """
        told = read_json(self.places.config) or {}
        return told if standing.settings is None else {**told, "daemon": {}, **standing.settings}

    def _wanted(self, standing: Standing, config: dict[str, Any]) -> dict[str, str]:
        """Return where the labels belong; a daemon of before has none, and serves what is on trial."""
        if standing.slot is not None and self.plain == children.way(self.places, config):
            return {steer.CURRENT: standing.slot}
        return steer.labels(standing)

    def _must_end(
        self, child: children.Child, standing: Standing, config: dict[str, Any], wanted: dict[str, str]
    ) -> bool:
        """Say whether what is wanted cannot be had of the router that runs."""
        if not wanted or standing.restarted > child.since:
            return True
        if child.steered:
            return child.way != children.way(self.places, config)
        mine = child.slot, child.since
        return mine != (wanted[steer.CURRENT], standing.since) or steer.CANDIDATE in wanted

    def _steer(self, standing: Standing, wanted: dict[str, str]) -> None:
        """Bring the router one step further; one whose version is beyond its own help is started anew."""
        may_act = time.monotonic() >= self.not_before
        known = self.pilot.status is not None
        refusal = self.pilot.turn(wanted, BEAT if standing.trial is None else TICK, may_act=may_act)
        if self.pilot.status is not None and not known:
            # Before its first word it took up what lay there; from then on, what lies there is for the next.
            self.listener.passage.clear()
        self._count_workers(standing)
        refused = refusal is not None and not refusal.broke_off
        if refusal is not None and refused:
            self._count_refusal(refusal)
        serving = steer.version(self.pilot.status, wanted[steer.CURRENT])
        broken = serving.get("state") == "broken" and steer.CANDIDATE not in wanted
        lost = broken or self.pilot.hangs or (refused and self._is_beyond_help(standing))
        if self.child is not None and lost:
            lived = time.monotonic() - self.child.started
            self._stop(follows=True)
            self._count_end(self.last_exit or 1, lived, standing)

    def _is_beyond_help(self, standing: Standing) -> bool:
        """Say whether a router that should serve something else refuses to, and nobody looks at a trial."""
        return standing.trial is None and self.ends >= CRASHES

    def _count_workers(self, standing: Standing) -> None:
        """Take note of how often the worker of the standing's slot has ended."""
        if self.pilot.status is not None and standing.slot is not None:
            seen = steer.version(self.pilot.status, standing.slot)
            count = int(seen.get("crashes") or 0) if seen.get("resident") else 0
            if self.died_before is None:
                self.died_before = count
            if count > self.died_before + self.died:
                self.died, self.last_exit = count - self.died_before, seen.get("last_exit")
                self.why, self.not_before = seen.get("why"), _after(self.crashes)

    def _count_refusal(self, refusal: Refusal) -> None:
        self.ends, self.why = self.ends + 1, refusal.message
        self.last_exit = steer.version(self.pilot.status, refusal.verb.slot).get("last_exit")
        self.not_before = _after(self.ends)
        self._log(f"{refusal.verb.name} of slot {refusal.verb.slot[:12]} was refused: {refusal.message}")

    def _start(self, standing: Standing, config: dict[str, Any], slot: str) -> None:
        if slot == standing.slot and self._has_rotted(standing):
            return
        self.pilot.forget()
        try:
            handed: list[int] = []
            if self.plain == children.way(self.places, config):
                self.listener.close()
            else:
                handed = self.listener.open(_host(config), config["port"])
            self.child = children.start(self.places, config, slot, standing.since, handed)
        except (OSError, KeyError, IntegrityError) as error:
            self._log(f"the daemon cannot be started: {error}")
            self._count_end(children.NOT_STARTED, lived=0.0, standing=standing)

    def _log(self, line: str) -> None:
        with suppress(OSError), self.places.log.open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")

    def _bury(self, standing: Standing) -> None:
        """Note the end of a router."""
        child = self.child
        code = children.reap(child) if child is not None else None
        if child is None or code is None:
            return
        # One of before knows no keys: where there are some, it would answer whoever asks.
        keyless = not self.places.keys.exists()
        if code == NOT_UNDERSTOOD and child.steered and self.plain != child.way and keyless:
            self.child, self.plain = None, child.way
        else:
            self._count_end(code, time.monotonic() - child.started, standing)
        self.pilot.forget()

    def _count_end(self, code: int, lived: float, standing: Standing) -> None:
        """Count an end; the next start waits longer each time, half a minute at most."""
        self.ends = 1 if lived > STEADY and standing.trial is None else self.crashes + 1
        self.died, self.died_before = 0, None
        self.last_exit, self.child = code, None
        self.not_before = _after(self.ends)

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
                evidence = {"log": children.last_words(self.places), "last_exit": self.last_exit}
                return go_back(self.places, code, message, evidence)
        except DeviceError:
            return standing
        except OSError:
            # The disk takes no record: what is served must not wait for that.
            self.left = standing, reason
            return going_back(standing, code)

    def _reason_to_leave(self, standing: Standing) -> tuple[str, str] | None:
        """Return code and message when the slot must not serve on: its time is up, it crashes, it rotted."""
        if expired(standing, boots.identity(), time.monotonic()):
            return "CONFIRM_TIMEOUT", "nobody confirmed the release in time"
        if standing.trial is not None and self.crashes >= CRASHES:
            return "RUN_CRASHLOOP", f"the daemon ended {self.crashes} times"
        if self._is_to_be_loaded(standing) and self._has_rotted(standing):
            return ROTTEN, "its files have rotted"
        return None

    def _is_to_be_loaded(self, standing: Standing) -> bool:
        """Say whether the slot's files will be read."""
        if self.child is None or standing.slot is None:
            return self.child is None
        held = steer.version(self.pilot.status, standing.slot).get("resident")
        return self.child.steered and self.pilot.status is not None and not held

    def _has_rotted(self, standing: Standing) -> bool:
        """Say whether the slot's files are not what they were and the way back can serve; read once.

        Where neither can the device serves on: a flipped byte in a readme costs it no service.
        """
        back = going_back(standing, ROTTEN)
        if standing.slot is None or back.slot in (None, standing.slot):
            return False
        asked = (standing.slot, standing.since)
        if asked not in self.rotten:
            whole = slots.is_whole(self.places, standing.slot)
            if not whole:
                with suppress(OSError):
                    slots.note_rotten(self.places, standing.slot, "its files have rotted")
            self.rotten = {asked: not whole and leads_back(self.places, back)}
        return self.rotten[asked]

    def _stop(self, *, follows: bool) -> None:
        """End the router; one that none `follows` at the same door is told before."""
        if not follows:
            self.listener.passage.close()
        if self.child is not None:
            self.teller.hush()
            children.stop(self.child)
        self.pilot.forget()
        self.child = None

    def _remember(self) -> None:
        """Write down what runs, where that has changed: others read it, the daemon runs without."""
        versions = (self.pilot.status or {}).get("versions", [])
        said = {
            "slot": self.slot,
            "since": self.since,
            "crashes": self.crashes,
            "last_exit": self.last_exit,
            "why": self.why,
            "workers": {steer.slot_of(each["digest"]): each["pid"] for each in versions if each.get("pid")},
        }
        if (said, self.child) != self.told:
            with suppress(OSError):
                children.remember(self.places, self.child, said)
                self.told = said, self.child


def _after(ends: int) -> float:
    """Return when the next try is due after so many ends: half a minute later at most."""
    return time.monotonic() + min(30.0, 0.2 * (1 << min(ends, 8)))


def _host(config: dict[str, Any]) -> str:
    """Return the address that a router so run answers at."""
    return (config.get("daemon") or {}).get("host") or LOOPBACK
