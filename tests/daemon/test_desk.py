"""One work at a time, and a bounded line before it."""

import asyncio
import threading

import pytest

from slmops.daemon.desk import Desk
from slmops.daemon.refusal import RefusedError


async def collect(pieces):
    return [piece async for piece in pieces]


def test_works_are_computed_one_at_a_time_in_the_order_they_came():
    async def scene():
        desk, begun = Desk(), []

        def work(name):
            def pieces(_gone):
                begun.append(name)
                yield from range(3)
                assert begun[-1] == name

            return pieces

        answers = await asyncio.gather(*(collect(desk.pieces(work(name))) for name in range(10)))
        desk.stop()
        return begun, answers

    begun, answers = asyncio.run(scene())
    assert begun == list(range(10))
    assert answers == [[0, 1, 2]] * 10


def test_when_all_seats_are_taken_the_next_is_refused_at_once():
    async def scene():
        desk, release = Desk(seats=2), threading.Event()

        def wait(_gone):
            yield "begun"
            release.wait()

        first = desk.pieces(wait)
        assert await anext(first) == "begun"
        waiting = [asyncio.ensure_future(collect(desk.pieces(lambda _gone: iter("a")))) for _ in range(2)]
        await asyncio.sleep(0)
        assert desk.waiting == 2
        with pytest.raises(RefusedError) as refused:
            await anext(desk.pieces(wait))
        release.set()
        assert await collect(first) == []
        assert await asyncio.gather(*waiting) == [["a"], ["a"]]
        desk.stop()
        return refused.value

    refused = asyncio.run(scene())
    assert (refused.status, refused.retry_after) == (429, 1)


def test_work_is_told_when_its_listener_leaves():
    async def scene():
        desk, stopped = Desk(), threading.Event()

        def endless(gone):
            while not gone():
                yield 1
            stopped.set()

        pieces = desk.pieces(endless)
        await anext(pieces)
        await pieces.aclose()
        assert await desk.run(stopped.is_set)
        desk.stop()

    asyncio.run(scene())


def test_work_whose_listener_left_the_line_is_never_begun():
    async def scene():
        desk, release, begun = Desk(), threading.Event(), []

        def wait(_gone):
            yield 1
            release.wait()

        def work(_gone):
            begun.append(True)
            yield 1

        first = desk.pieces(wait)
        await anext(first)
        left = asyncio.ensure_future(collect(desk.pieces(work)))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
        assert desk.waiting == 0
        release.set()
        await collect(first)
        desk.stop()
        return begun

    assert asyncio.run(scene()) == []


def test_what_the_work_raises_reaches_its_listener_after_its_pieces():
    async def scene():
        desk = Desk()

        def work(_gone):
            yield 1
            raise ValueError("broken")

        pieces = desk.pieces(work)
        assert await anext(pieces) == 1
        with pytest.raises(ValueError, match="broken"):
            await anext(pieces)
        assert await collect(desk.pieces(lambda _gone: iter("ok"))) == ["o", "k"]
        desk.stop()

    asyncio.run(scene())


def test_when_the_desk_stops_all_are_told():
    async def scene():
        desk, release = Desk(), threading.Event()

        def wait(_gone):
            yield 1
            release.wait()

        first = desk.pieces(wait)
        assert await anext(first) == 1
        waiting = asyncio.ensure_future(collect(desk.pieces(wait)))
        await asyncio.sleep(0)
        desk.stop()
        for listener in (anext(first), waiting):
            with pytest.raises(RefusedError, match="stopping"):
                await listener
        release.set()

    asyncio.run(scene())
