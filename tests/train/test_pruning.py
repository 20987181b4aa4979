"""What people say of a cut, and what it comes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.errors import UsageError
from slmops.profile.load import load_profile
from slmops.train.choose_cut import block_of, rungs
from slmops.train.mask import parse_pattern
from slmops.train.pruning import AXES, Pruning, most_parameters, parse_axes, parse_pruning


@pytest.mark.parametrize(
    ("said", "most"),
    [("60%", 600_000), ("400k", 400_000), ("0.5M", 500_000), ("12345", 12_345), ("99.9 %", 999_000)],
)
def test_a_share_and_a_number_of_weights_are_understood(said, most):
    assert most_parameters(said, 1_000_000) == most


@pytest.mark.parametrize(
    "said", ["0%", "100%", "101%", "1M", "2M", "0", "", "-3", "60 percent", "1e3", "0.00001%"]
)
def test_what_is_no_part_of_a_model_is_refused(said):
    with pytest.raises(UsageError, match="--params: expected"):
        most_parameters(said, 1_000_000)


def test_a_cut_is_said_in_a_word():
    assert parse_pruning("60%", load_profile) == Pruning("60%")
    assert parse_pruning("layers=4, heads=2,mlp=64", load_profile) == Pruning(layers=4, heads=2, mlp=64)
    pi = load_profile("raspberry-pi-5")
    assert parse_pruning("profile=raspberry-pi-5,400k", load_profile) == Pruning("400k", profile=pi)
    for wrong in ("layers=four", "depth=3", "profile=nowhere"):
        with pytest.raises(UsageError):
            parse_pruning(wrong, load_profile)


def test_axes_are_named_in_any_order():
    assert parse_axes("mlp,layers") == ("layers", "mlp")
    assert parse_axes(",".join(AXES)) == AXES
    with pytest.raises(UsageError, match="expected some of layers, heads, mlp, hidden"):
        parse_axes("layers,depth")


@pytest.mark.parametrize("said", ["2", "4:2", "4:4", "0:4", "a:b", "2:4:8"])
def test_a_mask_keeps_some_of_every_few_and_not_all(said):
    with pytest.raises(UsageError, match="expected N:M"):
        parse_pattern(said)


@given(st.integers(1, 20_000))
def test_widths_that_are_left_suit_the_types_of_ggml(width):
    found = rungs(width)
    assert found == sorted(found, reverse=True)
    assert all(0 < each < width and each % block_of(width) == 0 for each in found)
    assert len(found) <= 20


def test_a_forgotten_percent_sign_is_told():
    with pytest.raises(UsageError) as raised:
        most_parameters("40", 1000)

    assert "Give 40%" in raised.value.remedy
