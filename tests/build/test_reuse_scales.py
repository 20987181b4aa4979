"""Blocks keep the scales of an earlier artifact, bit for bit, where that costs no more than is allowed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.build.ggml import Quantizer
from slmops.build.reuse_scales import HALF_ULP, REUSABLE, alternative, round_with, values
from slmops.delta.fields import LAYOUTS

TYPES = sorted(REUSABLE)
ROWS, COLUMNS = 8, 512


@pytest.fixture(scope="module")
def quantizer():
    with Quantizer() as made:
        yield made


def drawn(seed, moved=0.01):
    random = np.random.default_rng(seed)
    before = random.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    return before, before + np.float32(moved) * random.standard_normal(before.shape).astype(np.float32)


def reuse(type_name, rows, own, base, *, tolerance, importance=None):
    """Return the bytes of the rows, and how many weights have the headers of `base`."""
    made, count = alternative(type_name, rows, own, base, importance).within(tolerance)
    return made.reshape(own.shape), count * LAYOUTS[type_name].weights


def blocks(type_name, made):
    return made.reshape(-1, LAYOUTS[type_name].nbytes)


def headers(type_name, made):
    """Return the blocks with all codes the same: what is left to differ is the header."""
    return with_codes(type_name, blocks(type_name, made), 0)


def with_codes(type_name, made, code):
    fields, bare = LAYOUTS[type_name].split(made), np.empty_like(made)
    LAYOUTS[type_name].join(fields._replace(codes=np.full_like(fields.codes, code)), bare)
    return bare


def error(type_name, made, weights, importance=1.0):
    apart = (
        np.square(values(type_name, blocks(type_name, made)).reshape(weights.shape) - weights) * importance
    )
    return apart.reshape(-1, LAYOUTS[type_name].weights).sum(axis=1)


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("tolerance", [0.0, 0.1])
def test_a_block_has_the_headers_of_its_base_or_its_own_bytes(quantizer, type_name, tolerance):
    before, after = drawn(1)
    base, own = quantizer(type_name, before), quantizer(type_name, after)
    made, reused = reuse(type_name, after, own, base, tolerance=tolerance)
    theirs = (headers(type_name, made) == headers(type_name, base)).all(axis=1)
    mine = (blocks(type_name, made) == blocks(type_name, own)).all(axis=1)
    assert (theirs | mine).all()
    assert 0 < reused <= np.count_nonzero(theirs) * LAYOUTS[type_name].weights


@pytest.mark.parametrize("type_name", TYPES)
def test_no_block_fares_worse_than_is_allowed(quantizer, type_name):
    before, after = drawn(2, moved=0.1)
    base, own = quantizer(type_name, before), quantizer(type_name, after)
    for tolerance in (0.0, 0.05, 0.5):
        made, _ = reuse(type_name, after, own, base, tolerance=tolerance)
        most = error(type_name, own, after) * (1 + tolerance)
        assert (error(type_name, made, after) <= most * (1 + 1e-6)).all()


@pytest.mark.parametrize("type_name", TYPES)
def test_no_other_code_would_be_closer(quantizer, type_name):
    before, after = drawn(3, moved=0.1)
    base = blocks(type_name, quantizer(type_name, before))
    layout, weights = LAYOUTS[type_name], after.reshape(-1, LAYOUTS[type_name].weights)
    made = round_with(type_name, base, weights)
    nearest = np.abs(values(type_name, made) - weights)
    codes = range(int(type_name == "Q8_0"), layout.codes)
    offered = [values(type_name, with_codes(type_name, base, code)) for code in codes]
    # The base's code stays where float16 cannot tell it from the nearest.
    alike = 2 * HALF_ULP * np.ptp(offered, axis=0) + 1e-5
    assert all((nearest <= np.abs(other - weights) + alike).all() for other in offered)


@pytest.mark.parametrize("type_name", TYPES)
def test_what_did_not_change_stays_as_it_is(quantizer, type_name):
    weights, _ = drawn(4)
    base = quantizer(type_name, weights)
    made, reused = reuse(type_name, weights, base, base, tolerance=0.0)
    assert reused == weights.size
    assert np.array_equal(made, base)


@pytest.mark.parametrize("type_name", TYPES)
def test_scales_that_serve_leave_fewer_bytes_that_differ(quantizer, type_name):
    before, after = drawn(8, moved=0.003)
    base, own = quantizer(type_name, before), quantizer(type_name, after)
    made, _ = reuse(type_name, after, own, base, tolerance=0.2)
    assert np.count_nonzero(made != base) < np.count_nonzero(own != base)


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_K"])
def test_more_tolerance_reuses_more(quantizer, type_name):
    before, after = drawn(5, moved=0.05)
    base, own = quantizer(type_name, before), quantizer(type_name, after)
    reused = [reuse(type_name, after, own, base, tolerance=t)[1] for t in (0.0, 0.05, 0.5, 5.0)]
    assert reused == sorted(reused)
    assert reused[0] < reused[-1]


@pytest.mark.parametrize("type_name", ["Q4_0", "Q6_K"])
def test_errors_are_weighed_as_the_quantiser_weighed_them(quantizer, type_name):
    before, after = drawn(6, moved=0.1)
    importance = np.random.default_rng(6).lognormal(0, 2, COLUMNS).astype(np.float32)
    base, own = quantizer(type_name, before, importance), quantizer(type_name, after, importance)
    made, _ = reuse(type_name, after, own, base, tolerance=0.1, importance=importance)
    most = error(type_name, own, after, importance) * 1.1
    assert (error(type_name, made, after, importance) <= most * (1 + 1e-5)).all()


@pytest.mark.parametrize("type_name", TYPES)
def test_a_base_of_zeros_serves_zeros_alone(quantizer, type_name):
    nothing, weights = np.zeros((ROWS, COLUMNS), np.float32), drawn(7)[0]
    base = quantizer(type_name, nothing)
    same, all_of_it = reuse(type_name, nothing, base, base, tolerance=0.0)
    assert all_of_it == nothing.size
    assert not error(type_name, same, nothing).any()
    own = quantizer(type_name, weights)
    made, none = reuse(type_name, weights, own, base, tolerance=0.5)
    assert none == 0
    assert np.array_equal(made, own)


@given(seed=st.integers(0, 2**32 - 1), moved=st.floats(0, 2), tolerance=st.floats(0, 1))
def test_whatever_moved_the_error_is_bounded(seed, moved, tolerance):
    before, after = drawn(seed, moved)
    with Quantizer() as quantizer:
        base, own = quantizer("Q4_K", before), quantizer("Q4_K", after)
    made, _ = reuse("Q4_K", after, own, base, tolerance=tolerance)
    assert (error("Q4_K", made, after) <= error("Q4_K", own, after) * (1 + tolerance) * (1 + 1e-5)).all()
