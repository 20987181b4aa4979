"""Sequences with room of their own: what each holds, what a prompt begins with, and who changes places."""

from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.daemon.lanes import Lanes
from slmops.daemon.prefix import ALIKE

CONTEXT, SEQUENCES = 60, 4
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=40)


def begun(lanes, prompt, limit=0, *, anew=False):
    """Let a prompt in and read it, as whoever drives an engine; return its sequence and what it shared."""
    whole = len(prompt) + limit
    entry = lanes.entry(prompt, whole, anew=anew)
    if entry is None:
        return None
    lanes.begin(entry.target, prompt, whole, entry.source, entry.shared)
    lanes.add(entry.target, prompt[entry.shared :])
    return entry.target, entry.shared


@settings(max_examples=200)
@given(st.lists(st.tuples(prompts, st.booleans(), st.integers(0, 3)), max_size=25))
def test_whatever_comes_and_goes_what_is_at_work_stays_and_what_is_shared_was_there(requests):
    lanes, texts, working = Lanes(CONTEXT, SEQUENCES), {}, set()
    for prompt, anew, ends in requests:
        entry = lanes.entry(prompt, len(prompt), anew=anew)
        assert (entry is None) == (len(working) == SEQUENCES)
        if entry is not None:
            assert entry.target not in working
            assert entry.shared < len(prompt)
            if entry.source is None:
                assert entry.shared == 0
            else:
                assert texts[entry.source][: entry.shared] == prompt[: entry.shared]
                assert entry.shared >= ALIKE or entry.source == entry.target
            assert not (anew and entry.shared)
            lanes.begin(entry.target, prompt, len(prompt), entry.source, entry.shared)
            lanes.add(entry.target, prompt[entry.shared :])
            texts[entry.target] = prompt
            working.add(entry.target)
        for one, other in lanes.closing():
            assert one in working
            assert other not in working
            lanes.exchange(one, other)
            texts[one], texts[other] = texts.get(other, []), texts.get(one, [])
            working = working - {one} | {other}
        for sequence in sorted(working)[:ends]:
            lanes.end(sequence)
            working.discard(sequence)
        assert set(lanes.kept) == set(texts) - working
        assert all(lanes.read(sequence) == len(text) for sequence, text in texts.items())


@given(st.sets(st.integers(0, 9)))
def test_those_at_work_come_to_lie_side_by_side_with_as_few_moves_as_can_be(working):
    lanes = Lanes(CONTEXT, 10)
    for sequence in range(10):
        lanes.begin(sequence, [sequence], 1, None, 0)
        lanes.add(sequence, [sequence])
    for sequence in set(range(10)) - working:
        lanes.end(sequence)
    pairs = list(lanes.closing())
    for one, other in pairs:
        lanes.exchange(one, other)
    there = sorted(set(range(10)) - set(lanes.kept))
    assert not there or there == list(range(there[0], there[0] + len(working)))
    windows = [set(range(start, start + len(working))) for start in range(11 - len(working))]
    assert len(pairs) == min(len(working - window) for window in windows)


def test_nobody_changes_places_who_is_too_long_to_be_copied():
    lanes = Lanes(CONTEXT, 3)
    for sequence in range(3):
        lanes.begin(sequence, [], CONTEXT, None, 0)
        lanes.add(sequence, [sequence] * (CONTEXT // 2 + 1))
    lanes.end(1)
    assert list(lanes.closing()) == []


def test_a_conversation_goes_on_in_its_place():
    lanes = Lanes(CONTEXT, SEQUENCES)
    first, _ = begun(lanes, [1] * 30)
    lanes.add(first, [2, 2])
    lanes.end(first)
    assert begun(lanes, [1] * 30 + [2, 2, 3, 3]) == (first, 32)


def test_what_is_worth_keeping_is_copied_from_and_stays():
    lanes = Lanes(CONTEXT, SEQUENCES)
    first, _ = begun(lanes, [1] * 20 + [2] * 30)
    lanes.end(first)
    second, shared = begun(lanes, [1] * 20 + [3] * 10)
    assert (second != first, shared) == (True, 20)
    assert lanes.read(first) == 50


def test_a_few_tokens_are_read_rather_than_copied():
    lanes = Lanes(CONTEXT, SEQUENCES)
    first, _ = begun(lanes, [1] * 10 + [2] * 30)
    lanes.end(first)
    assert begun(lanes, [1] * 10 + [3] * 10)[1] == 0


def test_the_least_recently_used_goes_first():
    lanes = Lanes(CONTEXT, 3)
    for start in range(3):
        sequence, _ = begun(lanes, [start] * 30)
        lanes.end(sequence)
    used_again, shared = begun(lanes, [0] * 31)
    lanes.end(used_again)
    assert shared == 30
    assert begun(lanes, [9] * 30) == (1, 0)


def test_a_text_gets_an_empty_sequence_and_only_then():
    lanes = Lanes(CONTEXT, 2)
    assert begun(lanes, [], 5) == (0, 0)
    assert begun(lanes, [], 5) == (1, 0)
    assert begun(lanes, [], 5) is None
    lanes.end(1)
    assert begun(lanes, [], CONTEXT + 1) is None
    assert begun(lanes, [], 5) == (1, 0)
