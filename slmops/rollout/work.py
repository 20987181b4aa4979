"""Work on devices, as many at once as the pace allows, each within its time.

One thread hears what the others tell and hands it on; of a device that says nothing for longer than its
state may take, no more is awaited, and its thread ends at the next thing it tells. Laws: nobody begins once
`hold_back` says so; whoever began is heard to an end; nobody switches or confirms a device that is not waited
for any more; nothing that is told makes a deadline later.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Protocol

from slmops.fleet.inventory import Device
from slmops.fleet.strategy import Strategy
from slmops.fleet.window import opens_in
from slmops.rollout.assignment import ENDS, GOOD, UNDER_WAY, Event, State
from slmops.rollout.pace import Clock, Pace
from slmops.rollout.told import Tell, Told

TICK = 0.5
"""Seconds between looks at what else there may be to do."""
RETRY = 3.0
"""Seconds after which a device whose application held its update lock is tried again."""
SLACK = 60.0
"""Seconds over a stage's own deadline that the operator waits to hear of its end."""


class GivenUpError(Exception):
    """Nobody waits for this device any more: whoever works on it goes no further."""


class Listener(Protocol):
    """Who is told what happened, and knows where devices stand."""

    def stands(self, name: str) -> State:
        """Return where a device stands."""

    def hear(self, told: Told) -> None:
        """Take in what happened to a device."""

    def hold_back(self) -> bool:
        """Say whether nobody new may begin."""

    def breathe(self) -> None:
        """Do what is to be done every now and then."""


def bound(state: State, strategy: Strategy) -> float:
    """Return the seconds that a device may take to leave a state while it is worked on."""
    gate = strategy.ready_timeout + strategy.gate_timeout + strategy.gate.watch
    return {
        State.WAITING: strategy.transfer_timeout + SLACK,
        State.SENDING: strategy.transfer_timeout + SLACK,
        State.STAGED: SLACK,
        State.TRIAL: 2 * gate + SLACK,
        State.PROVED: strategy.confirm_timeout + SLACK,
        # On its way back.
        State.COMMITTED: 2 * gate + SLACK,
    }.get(state, SLACK)


class Work:
    """A job for each of some devices."""

    def __init__(self, strategy: Strategy, pace: Pace, starts: list[float], listener: Listener) -> None:
        """Take the terms; `starts` is when devices of this rollout began, and grows."""
        self.strategy, self.pace, self.starts, self.listener = strategy, pace, starts, listener
        self._told: SimpleQueue[tuple[int, Told | str]] = SimpleQueue()
        self._attempts: dict[int, Device] = {}
        self._entered: dict[str, float] = {}
        self._parked: dict[str, _Parked] = {}
        self._near: dict[str, State] = {}
        """Where devices stand that are worked on, or are down."""
        self._opens: dict[str, float] = {}
        """When windows that are closed open, by time zone."""
        self._waits: dict[str, float] = {}
        """Until when devices were told to wait."""
        self._count = self._good = 0

    def all(
        self, devices: Sequence[Device], job: Callable[[Device, Tell], None], *, paced: bool = True
    ) -> None:
        """Do `job` for every device; return when all that began have come to an end.

        Without `paced`, for the way home, only `max_parallel` bounds how many are worked on at once.
        """
        waiting, ended = {device.name: device for device in devices}, True
        try:
            while waiting or self._attempts or self._parked:
                if self.listener.hold_back():
                    waiting, self._parked = {}, {}
                if ended or self._is_time():
                    if paced and self.strategy.windows:
                        self._tell_who_waits(waiting)
                    for device in self._may_start(waiting, paced=paced):
                        self._begin(waiting.pop(device.name), job)
                ended = self._listen(self._patience(waiting))
                waiting |= self._unparked()
                self._give_up_on_the_silent()
                self.listener.breathe()
        finally:
            self._attempts.clear()

    def _may_start(self, waiting: dict[str, Device], *, paced: bool) -> list[Device]:
        ready = list(waiting.values())
        if not paced:
            return ready[: max(0, self.strategy.max_parallel - len(self._attempts))]
        return self.pace.may_start(ready, self._near, self._clock())

    def _tell_who_waits(self, waiting: Mapping[str, Device]) -> None:
        """Tell of each device that its window is closed, once for each window."""
        now = time.time()
        for zone in {device.timezone for device in waiting.values()}:
            if self._opens.get(zone, 0.0) <= now:
                self._opens[zone] = now + opens_in(self.strategy.windows, zone, now)
        for name, device in waiting.items():
            opens = self._opens[device.timezone]
            if opens > now and self._waits.get(name) != opens:
                self._waits[name] = opens
                self._hear(Told(name, None, said={"step": "window", "opens": opens}))

    def _clock(self) -> Clock:
        return Clock(time.time(), self.starts, self._good)

    def _begin(self, device: Device, job: Callable[[Device, Tell], None]) -> None:
        self._count += 1
        attempt = self._count
        self._attempts[attempt] = device
        self._entered[device.name] = time.monotonic()
        # Until it says more: it is worked on.
        self._near[device.name] = State.SENDING
        self.starts.append(time.time())

        def do() -> None:
            fault = "whoever worked on it stopped, and did not say why"
            try:
                job(device, lambda told: self._tell(attempt, told))
            except BaseException as error:  # noqa: BLE001 - whatever it is, the device's end is told
                fault = f"a fault of slmops itself: {error!r}"
            self._told.put((attempt, fault))

        # A daemon: whoever leaves by a second Ctrl-C leaves devices to decide alone.
        Thread(target=do, daemon=True).start()

    def _tell(self, attempt: int, told: Told) -> None:
        """Pass on what a thread tells, or end it there: nobody waits for it any more."""
        if attempt not in self._attempts:
            raise GivenUpError(f"{told.device} is not waited for any more")
        self._told.put((attempt, told))

    def _listen(self, patience: float) -> bool:
        """Hear what is told, for so many seconds at the most; say whether a device came to an end."""
        ended = False
        try:
            said = self._told.get(timeout=patience)
            while True:
                ended = self._take(*said) or ended
                said = self._told.get_nowait()
        except Empty:
            return ended

    def _take(self, attempt: int, told: Told | str) -> bool:
        """Take in what was told of an attempt; text is its end, and why, where nothing else said so."""
        device = self._attempts.get(attempt)
        if device is None:
            return False
        if isinstance(told, Told):
            self._hear(told)
            return False
        del self._attempts[attempt]
        state = self.listener.stands(device.name)
        if state is State.DEFERRED:
            self._park(device)
        else:
            self._parked.pop(device.name, None)
        if state in UNDER_WAY | {State.WAITING}:
            self._hear(Told(device.name, Event.LOSE, told))
        return True

    def _park(self, device: Device) -> None:
        now, parked = time.time(), self._parked.get(device.name)
        again = now + min(RETRY, self.strategy.defer_timeout)
        self._parked[device.name] = _Parked(device, parked.since if parked else now, again)

    def _hear(self, told: Told) -> None:
        before = self.listener.stands(told.device)
        self.listener.hear(told)
        after = self.listener.stands(told.device)
        if after is before:
            return
        self._entered[told.device] = time.monotonic()
        self._good += after in GOOD
        if after in GOOD or after is State.DEFERRED:
            self._near.pop(told.device, None)
        else:
            self._near[told.device] = after

    def _unparked(self) -> dict[str, Device]:
        """Return those whose application held its update lock and who are to be tried again now."""
        now, again = time.time(), {}
        at_work = {device.name for device in self._attempts.values()}
        for name, parked in list(self._parked.items()):
            if name in at_work or now < parked.again:
                continue
            if now - parked.since > self.strategy.defer_timeout:
                del self._parked[name]
                why = "its application held its update lock all the time"
                said = {"remedy": "Deploy again later, or with --override-lock, which does not wait for it."}
                self._hear(Told(name, Event.LEFT_OUT, why, said))
            else:
                self._parked[name] = replace(parked, again=inf)
                again[name] = parked.device
        return again

    def _give_up_on_the_silent(self) -> None:
        now = time.monotonic()
        for attempt, device in list(self._attempts.items()):
            state = self.listener.stands(device.name)
            longest = bound(state, self.strategy)
            if now - self._entered[device.name] <= longest:
                continue
            # Its thread ends at the next thing it tells.
            del self._attempts[attempt]
            if state not in ENDS or state is State.COMMITTED:
                event = Event.JAM if state is State.COMMITTED else Event.LOSE
                why = f"it was `{state.value}` for {longest:.0f} s"
                self._hear(Told(device.name, event, why, {"code": "SLM-DEADLINE"}))

    def _patience(self, waiting: dict[str, Device]) -> float:
        if self._attempts or not waiting:
            return TICK
        wake = self.pace.wake(list(waiting.values()), self._near, self._clock())
        return TICK if wake is None else max(0.01, min(TICK, wake))

    def _is_time(self) -> bool:
        """Say whether somebody may begin though nobody ended: by a rate, a window, an update lock."""
        by_time = self.strategy.rate is not None or self.strategy.windows or self._parked
        return bool(by_time) or not self._attempts


@dataclass(frozen=True)
class _Parked:
    """A device whose application holds its update lock."""

    device: Device
    since: float
    again: float
