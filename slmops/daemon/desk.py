"""The one waiting line in front of all workers: bounded, fair, and let through as workers have room.

It does not know requests or models. Who waits says by a function which worker it wants: None while there is
none (a swap is under way), and then it waits, but no longer than a swap may take.

Laws: at most `seats` wait, and of one key at most `SHARE` of them; the next is refused at once, but for
those whose turn came to nothing; a worker never has more than its slots; who leaves the line is never given
a turn, and a turn that was given is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from slmops.daemon.fair import Line
from slmops.daemon.refusal import NOT_READY, TOO_MANY, RefusedError

SEATS = 64
SHARE = 0.75
"""Of the seats, what one key may take: the others find one even so."""
MAX_PAUSE = 30.0
RETRY_SECONDS = 1


class Room(Protocol):
    """A worker, as the desk needs it."""

    taken: int
    """Turns that were given and not given back."""

    @property
    def slots(self) -> int:
        """How many turns there may be at once; 0 while it computes nothing."""


Target = Callable[[], "Room | None"]
"""Returns who is to answer, None while nobody can; raises RefusedError when nobody ever will."""


@dataclass
class Turn:
    """A turn with a worker."""

    room: Room
    _look: Callable[[], None]
    _over: bool = False

    def end(self) -> None:
        """Give the turn back, if it was not yet."""
        if not self._over:
            self._over = True
            self.room.taken -= 1
            self._look()


@dataclass(eq=False)
class _Waiting:
    target: Target
    turn: asyncio.Future[Room]


class Desk:
    """Those who wait, and who is next."""

    def __init__(self, seats: int = SEATS, max_pause: float = MAX_PAUSE) -> None:
        self._seats, self._most = seats, max(1, int(seats * SHARE))
        self._max_pause = max_pause
        self._line: Line[_Waiting] = Line()
        self._closed: str | None = None

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._line)

    @property
    def is_closed(self) -> bool:
        """Say whether whoever comes is refused."""
        return self._closed is not None

    @asynccontextmanager
    async def turn(
        self, key: str, cost: float, target: Target, *, seated: bool = False
    ) -> AsyncGenerator[Turn]:
        """Wait for a turn with the worker that `target` names, and hold it; raise RefusedError for none.

        It ends with the block, or before. Who is `seated` has had a turn that came to nothing.

        `key` is who asks, empty where no keys are asked for; `cost` is about how many tokens it will take.
        """
        turn = Turn(await self._wait(key, cost, target, seated=seated), self.look)
        try:
            yield turn
        finally:
            turn.end()

    def look(self) -> None:
        """Give turns to those who can have one now; to be called when anything changed."""
        while (one := self._line.take(_can)) is not None:
            if one.turn.done():
                continue
            try:
                room = one.target()
            except RefusedError as refusal:
                one.turn.set_exception(refusal)
                continue
            if room is not None:
                room.taken += 1
                one.turn.set_result(room)

    def close(self, why: str) -> None:
        """Refuse whoever waits, and whoever comes."""
        self._closed = why
        while (one := self._line.take(lambda _one: True)) is not None:
            if not one.turn.done():
                one.turn.set_exception(_not_now(why))

    def open(self) -> None:
        """Take again whoever comes."""
        self._closed = None

    async def _wait(self, key: str, cost: float, target: Target, *, seated: bool) -> Room:
        if self._closed is not None:
            raise _not_now(self._closed)
        room = target()
        if room is not None and not self._line and room.taken < room.slots:
            room.taken += 1
            return room
        if not seated and (len(self._line) >= self._seats or (key and self._line.of(key) >= self._most)):
            raise RefusedError(
                TOO_MANY,
                f"{len(self._line)} requests are waiting already",
                reason="queue_full",
                retry_after=RETRY_SECONDS,
            )
        one = _Waiting(target, asyncio.get_running_loop().create_future())
        self._line.join(key, max(cost, 1.0), one)
        self.look()
        try:
            return await self._turn_of(one)
        except asyncio.CancelledError:
            self._hand_back(one)
            raise
        finally:
            self._line.leave(one)

    async def _turn_of(self, one: _Waiting) -> Room:
        """Wait until there is a turn; give up when for too long there was nobody to give one."""
        while True:
            done, _ = await asyncio.wait({one.turn}, timeout=self._max_pause)
            if done:
                return one.turn.result()
            if one.target() is None:
                raise _not_now("no version is ready to answer")

    def _hand_back(self, one: _Waiting) -> None:
        """Give back a turn that came just as its owner left."""
        if one.turn.done() and not one.turn.cancelled() and one.turn.exception() is None:
            one.turn.result().taken -= 1
            self._line.leave(one)
            self.look()
        one.turn.cancel()


def _can(one: _Waiting) -> bool:
    """Say whether somebody's waiting ends now: with a turn, with a refusal, or because nobody waits."""
    if one.turn.done():
        return True
    try:
        room = one.target()
    except RefusedError:
        return True
    return room is not None and room.taken < room.slots


def _not_now(why: str) -> RefusedError:
    return RefusedError(NOT_READY, why, reason="not_ready", retry_after=RETRY_SECONDS)
