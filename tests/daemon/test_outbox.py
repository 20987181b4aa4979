"""What a worker says together is what it would have said piece by piece."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.outbox import EVERY, Outbox
from slmops.daemon.protocol import Done, Piece


def done(number):
    return Done(id=number, data=b".", prompt_tokens=1, cached_tokens=0, output_tokens=9, finish="stop")


@st.composite
def courses(draw):
    """Turns, each with the seconds since the one before and who says something in it."""
    turns = draw(st.lists(st.tuples(st.floats(0, 0.02), st.sets(st.integers(0, 3))), max_size=40))
    return [*turns, (0.001, {0, 1, 2, 3})]


@given(courses())
def test_nothing_is_lost_turned_round_or_held_for_long(course):
    outbox, now, tokens = Outbox(), 100.0, [0] * 4
    meant, heard = [b""] * 4, [b""] * 4
    since = [None] * 4
    for at, (later, who) in enumerate(course):
        now += later
        words = []
        for number in sorted(who):
            tokens[number] += 1
            data = b"%d," % tokens[number]
            meant[number] += data
            last = at == len(course) - 1
            words += [Piece(id=number, data=data, tokens=tokens[number]), *([done(number)] if last else [])]
            since[number] = since[number] or now
        for word in outbox.put(words, now):
            if isinstance(word, Piece):
                heard[word.id] += word.data
                assert word.tokens == tokens[word.id]
                since[word.id] = None
        assert all(held is None or now - held < EVERY for held in since)
        for number in who:
            assert tokens[number] > 1 or heard[number]

    assert heard == meant


def test_slow_answers_are_told_piece_by_piece():
    outbox = Outbox()

    for at in range(1, 10):
        (word,) = outbox.put([Piece(id=1, data=b"x", tokens=at)], at * EVERY * 1.01)
        assert word.tokens == at
