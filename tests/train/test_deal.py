"""Dealing samples to steps: all of them, evenly, and from any step on."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slmops.train.deal import deal, draw, parts, share, steps_per_epoch

many_lengths = st.lists(st.integers(2, 60), min_size=1, max_size=80).map(np.array)
seeds = st.integers(0, 9)


@given(many_lengths, st.integers(1, 300), seeds)
def test_an_epoch_has_each_sample_once_and_every_step_has_some(lengths, batch_tokens, seed):
    steps = steps_per_epoch(lengths, batch_tokens)
    dealt = deal(lengths, batch_tokens, seed)

    for _ in range(3):
        epoch = list(itertools.islice(dealt, steps))
        assert all(len(places) for places in epoch)
        assert sorted(np.concatenate(epoch)) == list(range(len(lengths)))


@given(many_lengths, st.integers(1, 300), seeds)
def test_a_step_is_an_even_share_give_or_take_a_sample(lengths, batch_tokens, seed):
    steps = steps_per_epoch(lengths, batch_tokens)
    even = lengths.sum() / steps

    for places in itertools.islice(deal(lengths, batch_tokens, seed), steps):
        assert abs(lengths[places].sum() - even) < lengths.max()
    assert even <= batch_tokens or even < 2 * lengths.max()


@given(many_lengths, st.integers(1, 300), seeds, st.integers(0, 40))
def test_what_is_dealt_from_a_step_on_is_what_was_dealt_there(lengths, batch_tokens, seed, first):
    whole = itertools.islice(deal(lengths, batch_tokens, seed), first, first + 5)
    later = itertools.islice(deal(lengths, batch_tokens, seed, first), 5)

    for one, other in zip(whole, later, strict=True):
        assert np.array_equal(one, other)


def test_epochs_and_seeds_shuffle_differently():
    lengths = np.full(50, 10)
    (first, second), (other,) = (
        [list(places) for places in itertools.islice(deal(lengths, 500, seed), count)]
        for seed, count in ((0, 2), (1, 1))
    )

    assert first != second
    assert first != other


@given(many_lengths, st.integers(1, 5))
def test_processes_part_a_step_without_rest_and_evenly(lengths, processes):
    places = np.arange(len(lengths))
    shares = [share(places, lengths, process, processes) for process in range(processes)]
    counts = [len(each) for each in shares]

    assert sorted(np.concatenate(shares)) == list(places)
    assert max(counts) - min(counts) <= 1


@given(many_lengths, st.integers(1, 200))
def test_parts_keep_all_in_order_and_are_no_larger_than_asked_unless_one_sample_is(lengths, part_tokens):
    places = share(np.arange(len(lengths)), lengths, 0, 1)
    found = list(parts(places, lengths, part_tokens))

    assert np.array_equal(np.concatenate(found), places)
    assert all(len(part) == 1 or len(part) * lengths[part].max() <= part_tokens for part in found)


def test_a_process_without_samples_reads_no_part():
    lengths = np.array([5])

    assert list(parts(share(np.array([0]), lengths, 1, 2), lengths, 100)) == []


def test_no_two_steps_or_processes_draw_alike():
    drawn = {draw(seed, step, process) for seed in range(5) for step in range(20) for process in range(4)}

    assert len(drawn) == 400
    assert max(drawn) < 2**63
