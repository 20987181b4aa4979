"""A type for each tensor: what is spent, what is gained, and that nothing simpler does better."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.build.mix import Option, mix

# Losses are whole thousandths, so that sums are told apart by more than rounding.
options = st.builds(
    Option,
    type=st.sampled_from(["F16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q2_K"]),
    nbytes=st.integers(1, 40),
    loss=st.integers(0, 100).map(lambda n: n / 1000),
)
models = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]), st.lists(options, min_size=1, max_size=4), min_size=1
)
budgets = st.integers(0, 200)
losses = st.sampled_from([0.0, 0.01, 0.05, 0.2])
ROUNDING = 1e-9


def smallest(model):
    """Return the bytes when every tensor has its smallest type."""
    return sum(min(option.nbytes for option in choices) for choices in model.values())


def longest_step(model):
    """Return the bytes between the smallest and the largest option, of the tensor where that is most."""
    return max(
        max(option.nbytes for option in choices) - min(option.nbytes for option in choices)
        for choices in model.values()
    )


def every_mix(model):
    """Return bytes and loss of every way to give each tensor a type."""
    for chosen in itertools.product(*model.values()):
        yield sum(one.nbytes for one in chosen), sum(one.loss for one in chosen)


@given(models, budgets, losses)
def test_no_more_is_spent_than_there_is_unless_all_have_their_smallest(model, budget, enough):
    assert mix(model, budget, enough).nbytes <= max(budget, smallest(model))


@given(models, budgets, losses)
def test_each_tensor_has_a_type_of_its_own_and_bytes_and_loss_are_their_sums(model, budget, enough):
    found = mix(model, budget, enough)

    assert found.types.keys() == model.keys()
    sums = [
        (sum(one.nbytes for one in chosen), sum(one.loss for one in chosen))
        for chosen in itertools.product(*model.values())
        if [one.type for one in chosen] == [found.types[name] for name in model]
    ]
    assert any(nbytes == found.nbytes and abs(loss - found.loss) < ROUNDING for nbytes, loss in sums)


@given(models, budgets, budgets, losses)
def test_more_bytes_never_give_a_larger_loss(model, budget, more, enough):
    assert mix(model, budget + more, enough).loss <= mix(model, budget, enough).loss + ROUNDING


@given(models, budgets, losses)
def test_it_stops_where_the_loss_is_low_enough(model, budget, enough):
    least, found = mix(model, 0), mix(model, budget, enough)

    if least.loss <= enough:
        assert found == least
    if found.loss > enough + ROUNDING:
        # It stopped for want of bytes, so a will to go on changes nothing.
        assert found == mix(model, budget)


@given(models, budgets)
def test_nothing_that_leaves_room_for_one_step_more_loses_less(model, budget):
    room = budget - longest_step(model)
    best = min((loss for nbytes, loss in every_mix(model) if nbytes <= room), default=None)

    if best is not None:
        assert mix(model, budget).loss <= best + ROUNDING


@given(models, losses)
def test_to_lose_so_little_nothing_takes_less_by_more_than_one_step(model, enough):
    found = mix(model, 1000, enough)
    least = min((nbytes for nbytes, loss in every_mix(model) if loss <= enough), default=None)

    if least is not None:
        assert found.loss <= enough + ROUNDING
        assert found.nbytes <= least + longest_step(model)


@given(models)
def test_with_bytes_for_all_each_tensor_loses_what_it_can_do_best(model):
    found = mix(model, 1000)

    assert found.loss == pytest.approx(
        sum(min(option.loss for option in choices) for choices in model.values())
    )


@given(models, budgets, losses, st.randoms())
def test_the_order_of_options_does_not_matter(model, budget, enough, dice):
    shuffled = {name: dice.sample(choices, len(choices)) for name, choices in model.items()}

    assert mix(shuffled, budget, enough) == mix(model, budget, enough)


def test_the_bytes_go_where_they_save_most():
    cheap, dear = Option("Q4_0", 10, 0.5), Option("Q8_0", 20, 0.1)
    model = {"sensitive": [cheap, dear], "robust": [Option("Q4_0", 10, 0.2), Option("Q8_0", 20, 0.1)]}

    assert mix(model, 30).types == {"sensitive": "Q8_0", "robust": "Q4_0"}
    assert mix(model, 29).types == {"sensitive": "Q4_0", "robust": "Q4_0"}


def test_a_type_that_is_larger_and_no_better_is_never_taken():
    model = {"a": [Option("Q4_0", 10, 0.1), Option("Q5_0", 15, 0.1), Option("Q5_1", 16, 0.2)]}

    assert mix(model, 1000).types == {"a": "Q4_0"}
