"""The loop from prompt to pieces."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.engine import Transcript
from slmops.daemon.generate import Ask, Piece, Stops, generate
from slmops.daemon.sampling import Sampling

LETTERS = "abcdefgh. "
letters = st.text("abc", max_size=30)
stop_strings = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


class Reciter:
    """An engine that says a text letter by letter, whatever it is asked, then its last letter for ever."""

    context = 1000
    vocabulary = len(LETTERS)
    stride = 4

    def __init__(self, text):
        self._text = itertools.chain(text, itertools.repeat(text[-1]))
        self._asked = 0

    def feed(self, ids):
        self._asked += len(ids)
        after_prompt = self._asked >= 4
        said = LETTERS.index(next(self._text)) if after_prompt else 0
        return np.eye(self.vocabulary, dtype=np.float32)[said]

    def rewind(self, _length):
        return 0


def recite(text, limit=100, stops=(), gone=lambda: False):
    ask = Ask([0, 0, 0, 0], limit, Sampling(), stops)
    decode = lambda ids: "".join(LETTERS[number] for number in ids)  # noqa: E731
    return list(generate(Transcript(Reciter(text)), decode, [LETTERS.index(".")], ask, gone))


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


@pytest.mark.parametrize("patience", [0, 1, 5])
def test_when_nobody_listens_nothing_more_is_computed(patience):
    asked = itertools.count()
    pieces = recite("a", gone=lambda: next(asked) > patience)
    assert len(pieces) == patience
    assert all(piece.finish is None for piece in pieces)


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
