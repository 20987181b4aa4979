"""Let threads that compute together spin while the processors are theirs, and sleep while others want them.

Between two operations of a model its threads wait for each other, hundreds of times a token. To spin saves
the wake-up; on a busy machine it burns the turn that the awaited thread needs (seen, 77M model, two
processors: 280 against 216 tokens/s alone, 75 against 240 beside one busy program). OpenMP decides once;
but GNU's libgomp spins less where it manages more threads than there are processors, and then as
OMP_WAIT_POLICY says. So a few threads that do nothing make the others sleep, and their end lets them spin
again.

It does not know models. Without libgomp nothing happens: a runtime bundle's llama.cpp sleeps by itself.

Law: who waits for processors more than `BUSY` of the time that it has them sleeps from the next look on;
below `QUIET` it spins; between the two it stays as it is.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

SPINS = "200000"
"""A few milliseconds; in them a wait for another thread of the same computation is over."""
BUSY, QUIET = 0.30, 0.15
"""Seconds that this process's threads waited for a processor, over those that they had one."""
LOOK = 0.25
"""Seconds between two looks."""
ENOUGH = 0.05
"""Seconds of computing that a look can tell something by."""


def prepare(environ: MutableMapping[str, str] = os.environ) -> None:
    """Say how OpenMP is to wait, before it is loaded; who has said how long, or for ever, is heard."""
    policy = environ.get("OMP_WAIT_POLICY", "passive").lower()
    if policy == "passive" and "GOMP_SPINCOUNT" not in environ:
        environ["OMP_WAIT_POLICY"], environ["GOMP_SPINCOUNT"] = "passive", SPINS


def sleeps(waited: float, ran: float, *, slept: bool) -> bool:
    """Say whether threads are to sleep, who waited and ran so many seconds since they were looked at last."""
    share = waited / ran if ran > 0 else 0.0
    return share > BUSY or (slept and share >= QUIET)


class Spinning:
    """Has a process's threads spin or sleep, by what they had to wait for."""

    def __init__(self) -> None:
        """Begin with threads that spin; to be made once what computes is loaded."""
        self._gomp = _libgomp()
        self._idle: threading.Event | None = None
        self._at = 0.0
        self._seen = (0.0, 0.0)

    @property
    def sleeping(self) -> bool:
        """Say whether threads sleep now."""
        return self._idle is not None

    def look(self, now: float) -> None:
        """See whether it is time to change, at `now` in seconds; to be called often, between computations."""
        if self._gomp is None or now - self._at < LOOK:
            return
        waited, ran = _schedule()
        since = waited - self._seen[0], ran - self._seen[1]
        self._at = now
        if since[1] >= ENOUGH:
            self._seen = waited, ran
            (self.sleep if sleeps(*since, slept=self.sleeping) else self.spin)()

    def sleep(self) -> None:
        """Have threads sleep."""
        if self._idle is None:
            self._idle = _crowd(self._gomp)

    def spin(self) -> None:
        """Have threads spin."""
        if self._idle is not None:
            self._idle.set()
            self._idle = None


def _crowd(gomp: ctypes.CDLL | None) -> threading.Event:
    """Have libgomp manage more threads than there are processors, until the event is set."""
    end, there = threading.Event(), threading.Event()
    nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)

    def hold() -> None:
        assert gomp is not None  # noqa: S101 - it was found
        gomp.GOMP_parallel(nothing, None, len(os.sched_getaffinity(0)) + 1, 0)
        there.set()
        end.wait()

    threading.Thread(target=hold, name="crowd", daemon=True).start()
    there.wait()
    return end


def _schedule() -> tuple[float, float]:
    """Return the seconds that the threads of this process have waited for a processor, and had one."""
    waited = ran = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError, ValueError):
            on, off, _ = (task / "schedstat").read_text(encoding="ascii").split()
            ran, waited = ran + int(on), waited + int(off)
    return waited / 1e9, ran / 1e9


def _libgomp() -> ctypes.CDLL | None:
    """Return the libgomp that this process has loaded; None where it has none."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    paths = {line.split()[-1] for line in lines if "/libgomp" in line}
    with suppress(OSError):
        return ctypes.CDLL(paths.pop()) if len(paths) == 1 else None
    return None
