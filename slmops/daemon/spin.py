"""Let threads that compute together spin while the processors are theirs, and sleep while others want them.

Between two operations of a model its threads wait for each other, hundreds of times a token. To spin saves
the wake-up; on a busy machine it burns the turn that the awaited thread needs (seen, 77M model, two
processors: 280 against 216 tokens/s alone, 75 against 240 beside one busy program). OpenMP decides once;
but GNU's libgomp spins less where it manages more threads than there are processors, and then as
OMP_WAIT_POLICY says. So a few threads that do nothing make the others sleep, and their end lets them spin
again.

While they spin, and there is one for each processor, each keeps its own: the kernel else wakes one now and
then on the processor of another that waits for it (seen: 1 of 30 short requests took 20 ms longer). Beside a
busy program they move as the kernel sees fit, which is twice as fast then.

It does not know models. Without libgomp nothing happens: a runtime bundle's llama.cpp sleeps by itself.

Law: who waits for processors more than `BUSY` of the time that it has them sleeps from the next look on;
below `QUIET` it spins; between the two it stays as it is.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
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
Times = dict[int, tuple[float, float]]
"""Of each thread: the seconds that it has waited for a processor, and had one."""


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
        self._seen: Times = {}
        self._processors = sorted(os.sched_getaffinity(0))
        self._kept: tuple[int, ...] = ()
        """Threads that keep a processor each."""

    @property
    def sleeping(self) -> bool:
        """Say whether threads sleep now."""
        return self._idle is not None

    def look(self, now: float) -> None:
        """See whether it is time to change, at `now` in seconds; to be called often, between computations."""
        if self._gomp is None or now - self._at < LOOK:
            return
        self._at, times = now, _schedule()
        since = {thread: _since(there, self._seen.get(thread)) for thread, there in times.items()}
        if sums(since.values())[1] < ENOUGH:
            return
        self._seen = times
        # Of those that keep a processor, one that must share it holds up all.
        waits = [sums(since.values()), *(since[thread] for thread in self._kept if thread in since)]
        if any(sleeps(waited, ran, slept=self.sleeping) for waited, ran in waits):
            self.sleep()
        else:
            self.spin()
            self._keep_apart(computing({thread: ran for thread, (_, ran) in since.items()}))

    def sleep(self) -> None:
        """Have threads sleep, and wake wherever there is a processor."""
        if self._idle is None:
            self._let_go()
            self._idle = _crowd(self._gomp)

    def spin(self) -> None:
        """Have threads spin."""
        if self._idle is not None:
            self._idle.set()
            self._idle = None

    def _keep_apart(self, threads: tuple[int, ...]) -> None:
        """Have threads keep a processor each, if there are as many."""
        if len(threads) != len(self._processors) or threads == self._kept:
            return
        self._let_go()
        self._kept = threads
        for thread, processor in zip(threads, self._processors, strict=True):
            _bind(thread, [processor])

    def _let_go(self) -> None:
        for thread in self._kept:
            _bind(thread, self._processors)
        self._kept = ()


def _bind(thread: int, processors: Sequence[int]) -> None:
    """Have a thread use these processors only; a hardened unit may forbid it, and it may be gone."""
    with suppress(OSError):
        os.sched_setaffinity(thread, processors)


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


def computing(ran: Mapping[int, float]) -> tuple[int, ...]:
    """Return the threads that compute together, of those that ran so many seconds: all as long as any."""
    most = max(ran.values(), default=0.0)
    return tuple(sorted(thread for thread, seconds in ran.items() if seconds > most / 2))


def sums(times: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return the seconds that all have waited, and that all had a processor."""
    both = list(times)
    return sum(waited for waited, _ in both), sum(ran for _, ran in both)


def _since(now: tuple[float, float], before: tuple[float, float] | None) -> tuple[float, float]:
    waited, ran = before or (0.0, 0.0)
    return now[0] - waited, now[1] - ran


def _schedule() -> Times:
    """Return the times of the threads of this process."""
    found: Times = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError, ValueError):
            ran, waited, _ = (task / "schedstat").read_text(encoding="ascii").split()
            found[int(task.name)] = int(waited) / 1e9, int(ran) / 1e9
    return found


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
