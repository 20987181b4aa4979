"""The codec of a teacher's distributions: what comes back is what went in, within bounds."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.train import top_k
from slmops.train.divergences import Dense, Measure, Top, compare
from slmops.train.top_k import COVER, FARTHEST, STEP, decode, encode, join, select

REAL = np.float32(1e-4)
"""What single precision adds to a bound."""


@st.composite
def distributions(draw):
    rows, outcomes = draw(st.integers(0, 20)), draw(st.integers(2, 300))
    spread = draw(st.sampled_from([0.0, 0.5, 2.0, 8.0, 40.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    return spread * torch.randn(rows, outcomes, generator=generator)


def chosen(logits, k, temperature=1.0):
    return select(logits, k, torch.Generator().manual_seed(0), temperature)


@settings(deadline=None, max_examples=40)
@given(distributions(), st.integers(1, 255))
def test_what_is_decoded_is_what_was_encoded_within_its_bounds(logits, k):
    top = chosen(logits, k)
    back = decode(encode(top, logits.shape[1]))
    kept = np.isfinite(top.logs)
    width = back.ids.shape[1]
    assert np.array_equal(np.isfinite(back.logs), kept[:, :width])
    assert not kept[:, width:].any()
    assert np.array_equal(back.ids[kept[:, :width]], top.ids[kept])
    near = np.maximum(top.logs[kept], -FARTHEST * STEP)
    assert np.all(np.abs(back.logs[kept[:, :width]] - near) <= STEP + REAL)
    assert np.array_equal(back.drawn, np.sort(top.drawn, axis=1))
    assert np.all(np.abs(back.depth - top.depth) <= STEP / 2 + REAL)
    assert np.allclose(np.exp(back.logs).sum(1) + np.exp(back.rest), 1, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(distributions(), st.integers(1, 64))
def test_tokens_are_named_in_their_order_and_no_more_than_asked(logits, k):
    top = chosen(logits, k)
    named = np.isfinite(top.logs).sum(1)
    told = (top.drawn >= 0).sum(1)
    assert np.all(named + told <= k)
    assert np.all(named >= 1)
    assert np.all(np.diff(np.where(np.isfinite(top.logs), top.logs, -1e9), axis=1) <= 0)


@settings(deadline=None, max_examples=40)
@given(distributions(), st.integers(4, 64))
def test_only_what_is_not_named_is_drawn(logits, k):
    top = chosen(logits, k)
    for ids, logs, drawn in zip(top.ids, top.logs, top.drawn, strict=True):
        assert not set(ids[np.isfinite(logs)]) & set(drawn[drawn >= 0])


@settings(deadline=None, max_examples=40)
@given(distributions())
def test_equal_values_give_equal_bytes_and_rows_stand_alone(logits):
    top = chosen(logits, 16)
    again = join([decode(encode(part, logits.shape[1])) for part in halves(top)])
    whole = decode(encode(top, logits.shape[1]))
    assert encode(top, logits.shape[1]) == encode(chosen(logits, 16), logits.shape[1])
    for name in ("rest", "drawn", "depth"):
        assert np.array_equal(getattr(again, name), getattr(whole, name))
    kept = np.isfinite(again.logs)
    assert np.array_equal(again.logs[kept], whole.logs[np.isfinite(whole.logs)])


def halves(top):
    middle = len(top.ids) // 2
    columns = [(each[:middle], each[middle:]) for each in vars(top).values()]
    return [top_k.TopK(*(column[side] for column in columns)) for side in (0, 1)]


def test_a_sure_distribution_takes_a_handful_of_bytes():
    logits = torch.zeros(1000, 150_000)[:, :50_000]
    logits[:, 7] = 30.0
    data = encode(chosen(logits[:100], 64), 50_000)
    assert len(data) / 100 < 6


def test_a_row_ends_where_its_tokens_hold_enough():
    top = chosen(torch.tensor([[19.0, 18.0, -9.0, -9.0, -9.0], [1.0, 1.0, 1.0, 1.0, 1.0]]), 4)
    assert np.isfinite(top.logs).sum(1).tolist() == [2, 3]
    assert np.exp(top.rest[0]) < 1 - COVER
    assert (top.drawn >= 0).sum(1).tolist() == [0, 1]


def test_with_room_for_all_outcomes_nothing_is_left():
    logits = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    back = decode(encode(chosen(logits, 20), 20))
    assert np.all(np.isneginf(back.rest))
    assert np.allclose(np.sort(back.ids, 1), np.arange(20))


def test_a_temperature_is_that_of_what_is_stored():
    logits = 4 * torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    top = chosen(logits, 50, 2.0)
    expected = np.sort((logits / 2).log_softmax(-1).numpy(), 1)[:, ::-1]
    assert np.allclose(top.logs, np.where(np.isfinite(top.logs), expected, -np.inf), atol=1e-5)


def test_what_is_stored_teaches_as_all_logits_do():
    generator = torch.Generator().manual_seed(3)
    teacher = 3 * torch.randn(4000, 512, generator=generator)
    student = teacher + torch.randn(4000, 512, generator=generator)
    back = decode(encode(chosen(teacher, 64), 512))
    target = Top(*(torch.from_numpy(each) for each in vars(back).values()))
    right = torch.zeros(4000, dtype=torch.int64)
    got, expected = (compare(student, right, each, Measure()).divergence for each in (target, Dense(teacher)))
    assert abs(got / expected - 1) < 0.02
