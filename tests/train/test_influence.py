"""What matters, and how those that stay make up for those that leave."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from slmops.train.influence import Reader, made_up, order_out, scale_of_norm


def draw_flow(seed, inputs=12, outputs=5, tokens=40):
    """Return a matrix and inputs that depend on each other."""
    dice = torch.Generator().manual_seed(seed)
    few = torch.randn(tokens, 4, generator=dice) @ torch.randn(4, inputs, generator=dice)
    given_ = few + torch.randn(tokens, inputs, generator=dice) / 3
    return torch.randn(outputs, inputs, generator=dice), given_


kept_of_twelve = st.sets(st.integers(0, 11), min_size=1).map(sorted)


@given(st.integers(0, 999), kept_of_twelve)
def test_what_is_made_up_is_never_worse_than_leaving_out_alone(seed, kept):
    weight, inputs = draw_flow(seed)
    made = made_up(weight, inputs.T @ inputs / len(inputs), kept)
    wanted = inputs @ weight.T
    mended, plain = (
        (inputs[:, kept] @ left.T - wanted).square().sum() for left in (made, weight[:, torch.tensor(kept)])
    )
    assert mended <= plain * 1.0001 + 1e-4


@given(st.integers(0, 999))
def test_where_all_stay_the_weights_hardly_change(seed):
    weight, inputs = draw_flow(seed)
    made = made_up(weight, inputs.T @ inputs / len(inputs), range(12))
    assert torch.allclose(made, weight, atol=1e-4)


@given(st.integers(0, 999), st.integers(0, 11))
def test_what_is_never_read_leaves_first(seed, place):
    weight, inputs = draw_flow(seed)
    inputs[:, place] = 0
    order = order_out([Reader(weight, inputs.T @ inputs / len(inputs))])
    assert order[0] == place
    assert sorted(order) == list(range(12))


@given(st.integers(0, 999))
def test_a_structure_of_several_inputs_matters_by_all_of_them(seed):
    weight, inputs = draw_flow(seed)
    inputs[:, 4:8] = 0
    assert order_out([Reader(weight, inputs.T @ inputs / len(inputs))], width=4)[0] == 1


@given(kept_of_twelve)
def test_a_norm_keeps_its_scale_where_all_channels_are_alike(kept):
    assert abs(scale_of_norm(torch.full((12,), 1 / 12), kept) - 1) < 1e-6
    assert abs(scale_of_norm(torch.rand(12).softmax(0), range(12)) - 1) < 1e-6
