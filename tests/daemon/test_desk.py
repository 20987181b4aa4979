from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from slmops.daemon.desk import Desk
from slmops.daemon.refusal import RefusedError


@dataclass
class Room:
    slots: int = 1
    taken: int = 0


def run(journey):
    asyncio.run(asyncio.wait_for(journey, 20))


async def settle():
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_worker_has_no_more_than_its_slots_and_those_who_wait_follow_in_order():
    async def journey():
        desk, room, order, most = Desk(), Room(slots=2), [], 0

        async def visit(number):
            nonlocal most
            async with desk.turn("key", 1, lambda: room):
                most = max(most, room.taken)
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*map(visit, range(20)))
        assert (order, most, room.taken, desk.waiting) == (list(range(20)), 2, 0, 0)

    run(journey())


def test_one_key_leaves_seats_to_the_others_and_who_needs_none_takes_all():
    async def journey(key, most):
        desk, room = Desk(seats=4), Room()
        async with desk.turn(key, 1, lambda: room):
            waiting = []
            for number in range(5):
                waiting.append(asyncio.ensure_future(desk.turn(key, 1, lambda: room).__aenter__()))
                await settle()
                assert desk.waiting == min(number + 1, most)
            other = asyncio.ensure_future(desk.turn("other", 1, lambda: room).__aenter__())
            await settle()
            assert desk.waiting == min(most + 1, 4)
            for one in (*waiting, other):
                one.cancel()
            await asyncio.gather(*waiting, other, return_exceptions=True)

    run(journey("key", 3))
    run(journey("", 4))


def test_who_finds_all_seats_taken_is_refused_at_once():
    async def journey():
        desk, room = Desk(seats=1), Room()
        async with desk.turn("key", 1, lambda: room):
            waiting = asyncio.ensure_future(desk.turn("key", 1, lambda: room).__aenter__())
            await settle()
            with pytest.raises(RefusedError) as refused:
                await desk.turn("key", 1, lambda: room).__aenter__()
            assert (refused.value.status, refused.value.reason) == (429, "queue_full")
            assert refused.value.retry_after
            waiting.cancel()
            await settle()
            assert desk.waiting == 0

    run(journey())


def test_a_turn_that_comes_as_its_owner_leaves_is_given_back():
    async def journey():
        desk, room = Desk(), Room()
        async with desk.turn("key", 1, lambda: room):
            leaving = asyncio.ensure_future(desk.turn("key", 1, lambda: room).__aenter__())
            await settle()
        leaving.cancel()
        await settle()
        assert room.taken == 0
        async with desk.turn("key", 1, lambda: room):
            assert room.taken == 1

    run(journey())


def test_a_turn_that_ends_before_its_block_is_given_back_once():
    async def journey():
        desk, room = Desk(), Room()
        async with desk.turn("key", 1, lambda: room) as turn:
            waiting = asyncio.ensure_future(desk.turn("key", 1, lambda: room).__aenter__())
            await settle()
            turn.end()
            next_one = await waiting
        assert room.taken == 1
        next_one.end()
        assert room.taken == 0

    run(journey())


def test_while_there_is_no_version_requests_wait_but_not_for_ever():
    async def journey():
        desk, room = Desk(max_pause=0.05), None
        with pytest.raises(RefusedError) as refused:
            await desk.turn("key", 1, lambda: room).__aenter__()
        assert (refused.value.status, desk.waiting) == (503, 0)
        waiting = asyncio.ensure_future(desk.turn("key", 1, lambda: room).__aenter__())
        await settle()
        room = Room()
        desk.look()
        assert (await waiting).room is room

    run(journey())


def test_a_model_that_goes_while_it_is_waited_for_is_a_refusal():
    async def journey():
        desk, room, gone = Desk(), Room(slots=0), False

        def target():
            if gone:
                raise RefusedError(404, "no such model")
            return room

        waiting = asyncio.ensure_future(desk.turn("key", 1, target).__aenter__())
        await settle()
        gone = True
        desk.look()
        with pytest.raises(RefusedError, match="no such model"):
            await waiting

    run(journey())


def test_who_waits_for_a_busy_version_does_not_hold_up_who_wants_another():
    async def journey():
        desk, busy, free = Desk(), Room(), Room()
        async with desk.turn("key", 1, lambda: busy):
            held = asyncio.ensure_future(desk.turn("key", 1, lambda: busy).__aenter__())
            await settle()
            async with desk.turn("key", 1, lambda: free) as turn:
                assert turn.room is free
            held.cancel()
            await settle()

    run(journey())


def test_a_closed_desk_refuses_those_who_wait_and_those_who_come():
    async def journey():
        desk, room = Desk(), Room()
        async with desk.turn("key", 1, lambda: room):
            waiting = asyncio.ensure_future(desk.turn("key", 1, lambda: room).__aenter__())
            await settle()
            desk.close("the daemon is stopping")
            with pytest.raises(RefusedError, match="stopping"):
                await waiting
            with pytest.raises(RefusedError, match="stopping"):
                await desk.turn("key", 1, lambda: room).__aenter__()

    run(journey())
