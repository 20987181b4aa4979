"""Divergences: never negative, nothing between equals, and right in their gradients."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.train import divergences
from slmops.train.divergences import Dense, Measure, Top, compare

KINDS = ("forward-kl", "reverse-kl", "jensen-shannon")
seeds = st.integers(0, 10_000)
kinds = st.sampled_from(KINDS)
temperatures = st.sampled_from([0.5, 1.0, 2.0, 5.0])


def logits(seed, rows=5, outcomes=12, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(rows, outcomes, generator=generator, dtype=torch.float64)


def apart(student, target, kind="forward-kl", temperature=1.0, beta=0.5):
    measure = Measure(kind, 1.0, temperature, beta)
    return compare(student, torch.zeros(len(student), dtype=torch.int64), target, measure).divergence


def top(teacher, k, temperature=1.0):
    logs, ids = (teacher / temperature).log_softmax(-1).topk(k)
    others = (teacher / temperature).log_softmax(-1).scatter(1, ids, -math.inf)
    some = others.amax(-1) > -math.inf
    rest = torch.where(some, others.where(some[:, None], torch.zeros(())).logsumexp(-1), -math.inf)
    return Top(ids, logs, rest)


@settings(deadline=None, max_examples=40)
@given(seeds, seeds, kinds, temperatures)
def test_no_divergence_is_negative_and_equals_have_none(one, other, kind, temperature):
    student, teacher = logits(one), logits(other)
    assert apart(student, Dense(teacher), kind, temperature) >= -1e-12
    assert abs(apart(teacher + 7, Dense(teacher), kind, temperature)) < 1e-9
    if one != other:
        assert apart(student, Dense(teacher), kind, temperature) > 1e-6


@settings(deadline=None, max_examples=40)
@given(seeds, seeds, kinds, temperatures, st.integers(1, 11))
def test_the_likeliest_tokens_never_tell_more_than_all_logits(one, other, kind, temperature, k):
    student, teacher = logits(one), logits(other)
    told = apart(student, top(teacher, k, temperature), kind, temperature)
    assert -1e-12 <= told <= apart(student, Dense(teacher), kind, temperature) + 1e-9


@settings(deadline=None, max_examples=40)
@given(seeds, seeds, kinds, temperatures)
def test_with_every_token_named_they_tell_the_same(one, other, kind, temperature):
    student, teacher = logits(one), logits(other)
    named = apart(student, top(teacher, 12, temperature), kind, temperature)
    assert math.isclose(named, apart(student, Dense(teacher), kind, temperature), rel_tol=1e-9, abs_tol=1e-9)


@settings(deadline=None, max_examples=40)
@given(seeds, seeds, kinds, st.integers(1, 11))
def test_more_tokens_never_tell_less(one, other, kind, k):
    student, teacher = logits(one), logits(other)
    assert apart(student, top(teacher, k), kind) <= apart(student, top(teacher, k + 1), kind) + 1e-9


def test_drawn_tokens_make_the_forward_divergence_right_on_average():
    student, teacher = logits(1, rows=1), logits(2, rows=1)
    found, draws = top(teacher, 3), 20_000
    logs = teacher.log_softmax(-1)
    others = logs.scatter(1, found.ids, -math.inf).exp()
    drawn = torch.multinomial(others, draws, replacement=True, generator=torch.Generator().manual_seed(0))
    depth = (others * logs).sum(-1) / others.sum(-1)
    whole = Top(found.ids, found.logs, found.rest, drawn, depth)
    expected = apart(student, Dense(teacher))
    assert apart(student, found) < 0.9 * expected
    assert abs(apart(student, whole) - expected) < 0.03 * expected


def test_drawn_tokens_count_only_where_they_were_drawn():
    student, teacher = logits(1, rows=2), logits(2, rows=2)
    found = top(teacher, 3)
    nothing = torch.full((2, 4), -1)
    assert apart(student, Top(found.ids, found.logs, found.rest, nothing, torch.zeros(2))) == apart(
        student, found
    )


def test_the_forward_divergence_is_not_the_reverse_one():
    student, teacher = logits(3), logits(4)
    forward, reverse = (apart(student, Dense(teacher), kind) for kind in KINDS[:2])
    assert abs(forward - reverse) > 0.1
    assert math.isclose(forward, apart(teacher, Dense(student), "reverse-kl"), rel_tol=1e-9)


@settings(deadline=None, max_examples=40)
@given(seeds, seeds)
def test_jensen_shannon_is_symmetric_at_a_half_and_bounded(one, other):
    student, teacher = logits(one), logits(other)
    there, back = (
        apart(*pair, "jensen-shannon") for pair in ((student, Dense(teacher)), (teacher, Dense(student)))
    )
    assert math.isclose(there, back, rel_tol=1e-9, abs_tol=1e-12)
    assert there <= len(student) * math.log(2) + 1e-9


def test_jensen_shannon_comes_to_the_forward_divergence_as_beta_goes_to_nothing():
    student, teacher = logits(5, spread=0.7), logits(6, spread=0.7)
    near = apart(student, Dense(teacher), "jensen-shannon", beta=1e-5) / 1e-5
    assert math.isclose(near, apart(student, Dense(teacher)), rel_tol=1e-2)


def test_every_gradient_is_that_of_the_loss():
    student, teacher = logits(7, rows=3, outcomes=6).requires_grad_(), logits(8, rows=3, outcomes=6)
    found = top(teacher, 2)
    drawn = Top(found.ids, found.logs, found.rest, found.ids.flip(1), found.logs.mean(1))
    fewer = Top(
        found.ids[:, [0, 0]], torch.stack([found.logs[:, 0], torch.full((3,), -math.inf)], 1), found.rest
    )
    right = torch.tensor([1, 5, 0])
    for kind in KINDS:
        for target in (Dense(teacher), found, fewer, drawn, top(teacher, 6)):
            measure = Measure(kind, 0.7, 2.0, 0.3)
            assert torch.autograd.gradcheck(
                lambda x, m=measure, t=target: compare(x, right, t, m).total,
                student,
                atol=1e-5,
                fast_mode=True,
            )


def test_rows_add_up_however_many_are_in_work_at_a_time():
    student, teacher, right = logits(1, 9, 7), logits(2, 9, 7), torch.arange(9) % 7
    measure = Measure("jensen-shannon", 0.5, 2.0)
    whole = compare(student, right, Dense(teacher), measure)
    parts = [
        compare(student[i : i + 1], right[i : i + 1], Dense(teacher[i : i + 1]), measure) for i in range(9)
    ]
    assert math.isclose(whole.total.item(), sum(part.total.item() for part in parts), rel_tol=1e-12)
    assert math.isclose(whole.cross_entropy, sum(part.cross_entropy for part in parts), rel_tol=1e-12)


def test_large_blocks_are_worked_off_in_pieces():
    rows, outcomes = 5, divergences.CHUNK // 2
    student = torch.zeros(rows, outcomes, requires_grad=True)
    teacher = torch.zeros(rows, outcomes)
    teacher[:, 0] = 5.0
    found = compare(student, torch.zeros(rows, dtype=torch.int64), Dense(teacher), Measure())
    found.total.backward()
    expected = torch.full((outcomes,), 1 / outcomes) - teacher[0].softmax(-1)
    assert torch.allclose(student.grad, expected.expand(rows, -1), atol=1e-7)


def test_the_weight_mixes_cross_entropy_in_and_the_temperature_scales_by_its_square():
    student, teacher, right = logits(1), logits(2), torch.arange(5)
    found = compare(student, right, Dense(teacher), Measure("forward-kl", 0.25, 3.0))
    entropy = torch.nn.functional.cross_entropy(student, right, reduction="sum").item()
    assert math.isclose(found.cross_entropy, entropy, rel_tol=1e-12)
    assert math.isclose(found.total.item(), 0.75 * entropy + 0.25 * 9 * found.divergence, rel_tol=1e-12)


def test_only_what_both_speak_of_is_compared():
    student, teacher, right = logits(1), logits(2, outcomes=4), torch.tensor([0, 11, 3, 3, 3])
    shared = torch.tensor([3, 0, 7, 9])
    found = compare(student, right, Dense(teacher), Measure("reverse-kl", 0.5), shared)
    alone = compare(
        student[:, shared], torch.zeros(5, dtype=torch.int64), Dense(teacher), Measure("reverse-kl")
    )
    assert math.isclose(found.divergence, alone.divergence, rel_tol=1e-12)


def test_half_precision_logits_are_compared_in_full_precision():
    student, teacher = logits(1).bfloat16().requires_grad_(), logits(2)
    found = compare(student, torch.zeros(5, dtype=torch.int64), Dense(teacher.bfloat16()), Measure())
    assert found.total.dtype == torch.float32
    found.total.backward()
    assert student.grad.dtype == torch.bfloat16


def test_nothing_to_learn_is_no_loss():
    student = torch.zeros(0, 4, requires_grad=True)
    found = compare(student, torch.zeros(0, dtype=torch.int64), Dense(torch.zeros(0, 4)), Measure())
    found.total.backward()
    assert found.total.item() == 0.0
