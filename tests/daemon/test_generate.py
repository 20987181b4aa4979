"""From logits to pieces of an answer."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.generate import Piece, Stops, Wish, Writing
from slmops.daemon.sampling import Sampling

LETTERS = "abcdefgh. "
letters = st.text("abc", max_size=30)
stop_strings = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


def decode(ids):
    return "".join(LETTERS[number] for number in ids)


def recite(text, limit=100, stops=(), **wish):
    """Let a text be written letter by letter, its last letter for ever; return the pieces."""
    writing = Writing(Wish([0], limit, Sampling(), stops, **wish), decode, [LETTERS.index(".")])
    letters, pieces = itertools.chain(text, itertools.repeat(text[-1])), []
    while not pieces or pieces[-1].finish is None:
        pieces.append(writing.hear(np.eye(len(LETTERS), dtype=np.float32)[LETTERS.index(next(letters))]))
    return pieces


def joined(pieces):
    return "".join(piece.text for piece in pieces)


def test_a_stop_id_ends_the_answer_and_is_no_part_of_it():
    pieces = recite("abc.")
    assert joined(pieces) == "abc"
    assert pieces[-1] == Piece("", 3, "stop")


def test_the_limit_ends_the_answer():
    pieces = recite("abc.", limit=2)
    assert joined(pieces) == "ab"
    assert pieces[-1] == Piece("b", 2, "length")


def test_only_the_last_piece_says_why():
    assert [piece.finish for piece in recite("abc.")] == [None, None, None, "stop"]


def test_a_stop_string_across_tokens_is_never_said():
    pieces = recite("abcdefgh", stops=["cdx", "def"])
    assert joined(pieces) == "abc"
    assert pieces[-1].finish == "stop"
    assert pieces[-1].tokens == 6


def test_what_was_held_back_is_said_when_the_answer_ends():
    assert joined(recite("abcd.", stops=["cdx"])) == "abcd"
    assert joined(recite("abcd", limit=4, stops=["cdx"])) == "abcd"


def test_every_token_is_scored_once_in_order():
    pieces = recite("abcd", limit=4, stops=["cx"], alternatives=1)
    scored = [each for piece in pieces for each in piece.scored]
    assert "".join(each.text for each in scored) == "abcd"
    assert all(each.top[0] == (each.text, each.logprob) for each in scored)


def test_what_was_written_costs_and_what_is_asked_for_gains():
    dear = Sampling(frequency_penalty=2.0)
    writing = Writing(Wish([0], 3, dear), decode, [])
    row = np.array([1.5, 1.0, 0.2], np.float32)
    assert [writing.hear(row.copy()).text for _ in range(3)] == ["a", "b", "c"]
    gains = Writing(Wish([0], 3, Sampling(logit_bias=((2, 5.0),))), decode, [])
    assert gains.hear(row).text == "c"
    assert row.tolist() == pytest.approx([1.5, 1.0, 0.2])


class OnlyOnce:
    """A constraint: no letter twice, and no more than three of them."""

    def __init__(self):
        self.taken = []

    def mask(self, logits):
        logits[self.taken] = -np.inf

    def take(self, token):
        self.taken.append(token)
        return len(self.taken) == 3


def test_an_answer_keeps_to_its_constraint_and_ends_with_it():
    writing = Writing(Wish([0], 9, Sampling(), constraint=OnlyOnce(), alternatives=0), decode, [])
    row = np.array([3, 2, 1, 0], np.float32)
    pieces = [writing.hear(row) for _ in range(3)]
    assert joined(pieces) == "abc"
    assert [piece.finish for piece in pieces] == [None, None, "stop"]
    # Scores are what the model thinks, not what it is allowed.
    assert pieces[1].scored[0].logprob == pytest.approx(pieces[0].scored[0].logprob - 1)
    assert row.tolist() == [3, 2, 1, 0]


def said(stops, pieces):
    held, told = Stops(stops), []
    for piece in pieces:
        text, stopped = held.push(piece)
        told.append(text)
        if stopped:
            return "".join(told), True
    return "".join(told) + held.flush(), False


def cut(text, stops):
    """The law in other words: read letter by letter until some stop string is the end of what was read."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(letters, stop_strings)
def test_the_first_stop_string_that_is_complete_cuts(text, stops):
    assert said(stops, [text]) == cut(text, stops)


@given(letters, stop_strings, st.lists(st.integers(0, 30), max_size=6))
def test_how_the_text_comes_in_pieces_does_not_matter(text, stops, cuts):
    edges = [0, *sorted(min(at, len(text)) for at in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    assert said(stops, pieces) == said(stops, [text])


@given(letters, stop_strings)
def test_what_is_said_early_is_never_taken_back(text, stops):
    held, told = Stops(stops), ""
    for letter in text:
        piece, stopped = held.push(letter)
        told += piece
        assert cut(text, stops)[0].startswith(told)
        if stopped:
            break
