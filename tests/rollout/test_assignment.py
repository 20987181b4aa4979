from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.rollout.assignment import BAD, ENDS, GOOD, TRANSITIONS, Event, ImpossibleEventError, State, step

IMPOSSIBLE = [pair for pair in product(State, Event) if pair not in TRANSITIONS]
RETURNS = {Event.RETURN, Event.JAM}


def walk(*events):
    state = State.WAITING
    for event in events:
        state = step(state, event)
    return state


def heard(events):
    """Yield each move that the events make; what is impossible is passed over."""
    state = State.WAITING
    for event in events:
        if (state, event) in TRANSITIONS:
            after = step(state, event)
            yield state, event, after
            state = after


def test_a_device_that_passes_and_is_confirmed_is_committed():
    path = (Event.SEND, Event.STAGE, Event.TRY, Event.PASS, Event.CONFIRM)

    assert walk(*path) is State.COMMITTED


def test_a_device_whose_gate_failed_went_back():
    assert walk(Event.SEND, Event.STAGE, Event.TRY, Event.FALL_BACK) is State.WENT_BACK


@pytest.mark.parametrize(("state", "event"), IMPOSSIBLE, ids=str)
def test_what_the_table_omits_is_impossible(state, event):
    with pytest.raises(ImpossibleEventError, match=f"{state.value} cannot {event.value}"):
        step(state, event)


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_an_end_never_moves_except_that_a_committed_device_may_be_returned(events):
    for before, event, _ in heard(events):
        assert before not in ENDS or (before is State.COMMITTED and event in RETURNS)


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_no_device_is_committed_that_did_not_pass(events):
    passed = False
    for _, event, after in heard(events):
        passed = passed or event is Event.PASS
        assert after is not State.COMMITTED or passed


def test_every_state_is_reachable():
    assert {after for _, after in TRANSITIONS.items()} | {State.WAITING} == set(State)


def test_states_that_lead_nowhere_are_ends_and_so_is_a_commitment():
    leads_on = {state for state, _ in TRANSITIONS}

    assert (set(State) - leads_on) | {State.COMMITTED} == ENDS


@pytest.mark.parametrize("state", sorted(set(State) - ENDS, key=lambda state: state.value))
def test_a_device_under_way_may_be_lost_and_may_refuse(state):
    assert step(state, Event.LOSE) is State.LOST
    # A proved device that refuses its confirmation has gone back by itself.
    refused = State.WENT_BACK if state is State.PROVED else State.FAILED
    assert step(state, Event.REFUSE) is refused


def test_no_device_is_both_good_and_bad_and_one_that_is_lost_is_neither():
    assert not GOOD & BAD
    assert GOOD | BAD <= ENDS
    assert State.LOST not in GOOD | BAD
